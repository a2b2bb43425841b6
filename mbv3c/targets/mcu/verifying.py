"""Check that a C library computes on an emulated board what onnxruntime computes."""

from dataclasses import replace
from typing import TYPE_CHECKING

from mbv3c.bundle import Bundle
from mbv3c.c_library.again import check_library_files
from mbv3c.c_library.check import FilesParity, has_constants
from mbv3c.c_library.driver import constant_block
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Feed
from mbv3c.manifest import MANIFEST
from mbv3c.parity.compare import Parity
from mbv3c.parity.constants import ConstantFault, ConstantsParity
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder
from mbv3c.targets.library.again import Again, check_described, lowered_again
from mbv3c.targets.library.c_request import request_of
from mbv3c.targets.library.judging import beside_given, compared
from mbv3c.targets.library.verifying import kernels_alone
from mbv3c.targets.mcu.building import tvm_target
from mbv3c.targets.mcu.devices import McuTarget
from mbv3c.targets.mcu.firmware import image_sizes
from mbv3c.targets.mcu.manifest import c_library_of, manifest_of, record_of
from mbv3c.targets.mcu.runner import BoardRunner
from mbv3c.targets.mcu.stops import StoppingRunner
from mbv3c.targets.reference import reference_of, seeded_reference

if TYPE_CHECKING:
    from mbv3c.targets.mcu.backend import McuBackend


def verify(
    backend: "McuBackend",
    bundle: Bundle,
    opened: Runnable,
    progress: Progress,
    known: Prepared | None,
    inputs: list[Feed] | None,
) -> Parity:
    """Check a bundle's library: whole, every kernel by itself, and its constants.

    The reference of a network that mbv3c quantized is the quantized model; the model as given is
    beside it.

    Raises:
        Mbv3cError: the bundle cannot be run.
    """
    progress("running onnxruntime on the model that the library must equal")
    reference = reference_of(bundle, known, inputs)
    progress(f"running the C library on the {opened.ran_on}")
    outputs = opened.runner.run(opened.folder, reference.inputs)
    again = lowered_again(backend, bundle, known)
    assert isinstance(opened.runner, BoardRunner)
    alignment = record_of(bundle).arena_alignment
    stopping = StoppingRunner(opened.runner, again.lowered, alignment)
    stops = replace(opened, runner=stopping, kernels=manifest_of(bundle).kernels)
    alone = kernels_alone(again.graph, reference, stops, progress)
    seeded = seeded_reference(bundle, known, reference, own=inputs is not None)
    parity = compared(bundle, opened, outputs, reference, seeded)
    parity = replace(
        parity,
        files=None if known else _files(bundle, again, opened.runner.target),
        kernels=alone,
        constants=_constants(bundle, again, alignment),
        proven=not bundle.precision.quantized,
    )
    return beside_given(parity, bundle, outputs, reference, known, inputs, progress)


def _files(bundle: Bundle, again: Again, target: McuTarget) -> FilesParity:
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


def _constants(bundle: Bundle, again: Again, alignment: int) -> ConstantsParity:
    """Compare the constants of a library with those of its model, byte by byte."""
    check_described(bundle, again)
    steps = again.lowered.plan.steps
    count, size = sum(len(s.constants) for s in steps), sum(s.constant_bytes for s in steps)
    library = c_library_of(bundle)
    if has_constants(library, constant_block(again.lowered, alignment).data):
        return ConstantsParity(count, size, ())
    text = f"{library.archive.name} has other constants than its model gives"
    return ConstantsParity(count, size, (ConstantFault("", (), 0, 0, 0, text),))
