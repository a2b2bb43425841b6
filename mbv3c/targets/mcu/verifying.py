"""Write the files beside a C library once more, and compare them, and what a program takes."""

from dataclasses import replace

from mbv3c.bundle import Bundle
from mbv3c.c_library.again import check_library_files
from mbv3c.c_library.check import FilesParity
from mbv3c.manifest import MANIFEST
from mbv3c.scratch import scratch_folder
from mbv3c.targets.library.again import Again
from mbv3c.targets.library.c_request import request_of
from mbv3c.targets.mcu.building import tvm_target
from mbv3c.targets.mcu.devices import McuTarget
from mbv3c.targets.mcu.firmware import image_sizes
from mbv3c.targets.mcu.manifest import c_library_of, manifest_of, record_of


def checked_files(bundle: Bundle, again: Again, target: McuTarget) -> FilesParity:
    """Write what lies beside the archive once more, and compare; and what a program takes."""
    record, image = record_of(bundle), manifest_of(bundle).image
    request = request_of(bundle, record.prefix)
    found = check_library_files(bundle, record, again.lowered, tvm_target(target), request)
    with scratch_folder("image") as place:
        sizes = image_sizes(c_library_of(bundle), target, place, record.needs)
    if (sizes.flash_bytes, sizes.sram_bytes) == (image.flash_bytes, image.sram_bytes):
        return found
    text = f"{MANIFEST}: its image is not what a program with the library takes"
    return replace(found, differing=(*found.differing, text))
