"""The files in C of a bundle, written once more and compared: nothing here runs what they say."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import tvm

from mbv3c.bundle import Bundle, read_listed
from mbv3c.c_library.application import FOLDER as APP
from mbv3c.c_library.archive import ArchiveObject
from mbv3c.c_library.build import design
from mbv3c.c_library.check import FilesParity
from mbv3c.c_library.names import FOLDER
from mbv3c.c_library.record import CLibraryRecord, CLibraryRequest
from mbv3c.lowering.lower import Lowered
from mbv3c.manifest import MANIFEST
from mbv3c.scratch import scratch_folder


def check_library_files(
    bundle: Bundle,
    record: CLibraryRecord,
    lowered: Lowered,
    target: tvm.target.Target,
    request: CLibraryRequest,
) -> FilesParity:
    """Compare what lies beside the archive of a C library, and its names of classes.

    Args:
        bundle: the bundle.
        record: what its manifest says of the library.
        lowered: what its model gives.
        target: the processor, for TVM.
        request: what the library is for.

    Raises:
        BundleError: the archive is damaged.
    """
    archive = ArchiveObject(bundle.path / record.archive)
    sizes = archive.measured()
    made = design(lowered, target, request, record.arena_alignment)

    def write(folder: Path) -> None:
        made.write_headers(folder / FOLDER)
        made.write_others(request.golden, sizes.needs, folder / FOLDER)

    found = check_files(bundle, write, record.archive)
    more = []
    if made.record(sizes) != record:
        more.append(f"{MANIFEST}: its c_library is not the one that is there")
    labels = [label.encode() for label in request.labels]
    if labels and archive.labels(record.prefix, len(labels)) != labels:
        more.append(f"{record.archive}: its names of classes are not the model's")
    return FilesParity(found.count, (*found.differing, *more))


def check_files(
    bundle: Bundle, write: Callable[[Path], None], archive: str | None = None
) -> FilesParity:
    """Have the files in C written into a folder once more, and compare them byte by byte.

    `archive` is checked elsewhere.

    Raises:
        BundleError: a file cannot be read.
    """
    with scratch_folder("c-files") as folder:
        write(folder)
        wanted = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    ours = [name for name in bundle.files if PurePosixPath(name).parts[0] in (FOLDER, APP)]
    return FilesParity(len(wanted), tuple(_differing(bundle, ours, wanted, archive)))


def _differing(
    bundle: Bundle, ours: list[str], wanted: dict[str, bytes], archive: str | None
) -> Iterator[str]:
    for name in sorted({*ours, *wanted} - {archive}):
        if name not in bundle.files:
            yield f"{name} is missing"
        elif name not in wanted:
            yield f"{name} is no file that mbv3c writes"
        elif read_listed(bundle, name) != wanted[name]:
            yield f"{name} is not what this version of mbv3c writes for this model"
