"""What a bundle for a microcontroller says of itself."""

from dataclasses import dataclass
from typing import Any

from mbv3c.bundle import Bundle
from mbv3c.c_library.names import archive_of, header_of
from mbv3c.c_library.record import CLibraryRecord
from mbv3c.c_library.run import CLibrary, library_in
from mbv3c.errors import BundleError
from mbv3c.manifest import MANIFEST
from mbv3c.targets.library.manifest import LibraryManifest


@dataclass(frozen=True)
class ImageRecord:
    """What a program without a system takes that only runs the network.

    Attributes:
        flash_bytes: code and constants.
        sram_bytes: the arena, inputs, outputs and the stack.
        stack_bytes: the stack in `sram_bytes`.
        sram_budget_bytes: the SRAM that `sram_bytes` was held to.
    """

    flash_bytes: int
    sram_bytes: int
    stack_bytes: int
    sram_budget_bytes: int


@dataclass(frozen=True)
class McuManifest(LibraryManifest):
    """The manifest of a bundle for a microcontroller; its program is the C library.

    Attributes:
        image: the sizes of a program with the library.
    """

    image: ImageRecord

    @property
    def asked(self) -> dict[str, Any]:
        return {**super().asked, "sram_bytes": self.image.sram_budget_bytes}


def manifest_of(bundle: Bundle) -> McuManifest:
    """Return the manifest of a bundle for a microcontroller."""
    assert isinstance(bundle.manifest, McuManifest)
    return bundle.manifest


def record_of(bundle: Bundle) -> CLibraryRecord:
    """Return what a manifest says of its C library.

    Raises:
        BundleError: there is none, or other files than are listed and hashed.
    """
    record = manifest_of(bundle).c_library
    named = (header_of(record.prefix), archive_of(record.prefix)) if record else ("", "")
    if record is None or (record.header, record.archive) != named:
        raise _damaged(bundle, "it names no C library as mbv3c writes one")
    if not bundle.files.keys() >= {*named}:
        raise _damaged(bundle, f"{' and '.join(named)} are not listed")
    return record


def c_library_of(bundle: Bundle) -> CLibrary:
    """Return the C library of a bundle.

    Raises:
        BundleError: there is none, or other files than are listed and hashed.
    """
    record, manifest = record_of(bundle), bundle.manifest
    return library_in(bundle.path, record.prefix, manifest)


def _damaged(bundle: Bundle, reason: str) -> BundleError:
    return BundleError(f"{bundle.path / MANIFEST} is damaged: {reason}; compile it again")
