"""What the manifest of a bundle says of a network that an NPU and a CPU compute together."""

from dataclasses import dataclass

from mbv3c.bundle import Bundle
from mbv3c.c_library.names import archive_of, header_of
from mbv3c.c_library.run import CLibrary, library_in
from mbv3c.errors import BundleError
from mbv3c.manifest import MANIFEST
from mbv3c.targets.ethos_u.manifest import NpuManifest

FIRST = "model"


@dataclass(frozen=True)
class PartRecord:
    """A part of the network.

    Attributes:
        on: `npu` or `cpu`.
        files: of the NPU the TOSA file and the command stream; of the CPU the part as a model.
        reads, makes: the tensors of the quantized model that enter and leave it.
        code_bytes: instructions of the CPU's kernels, or the command stream.
        constant_bytes: weights and tables.
        scratch_bytes: memory that it takes while it runs.
        kernels: calls of kernels of the CPU, or operators of the NPU.
    """

    on: str
    files: tuple[str, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    code_bytes: int
    constant_bytes: int
    scratch_bytes: int
    kernels: int


@dataclass(frozen=True)
class FirmwareRecord:
    """The one C library of both.

    Attributes:
        host: the CPU, FAMILY:DEVICE.
        prefix: what every name begins with.
        header, archive: the files, by their path in the bundle.
        code_bytes, constant_bytes: of the whole; streams are constants.
        arena_bytes, arena_lower_bound, arena_alignment: the memory that the caller gives.
        needs: functions that must be linked beside memcpy, memmove and memset.
        flash_bytes: code and constants of a program that only runs the network.
        sram_bytes: its arena, inputs, outputs and stack.
        stack_bytes: the stack in `sram_bytes`.
        parts: the parts, in the order in which they run.
    """

    host: str
    prefix: str
    header: str
    archive: str
    code_bytes: int
    constant_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    arena_alignment: int
    needs: tuple[str, ...]
    flash_bytes: int
    sram_bytes: int
    stack_bytes: int
    parts: tuple[PartRecord, ...]

    @property
    def streams(self) -> tuple[PartRecord, ...]:
        return tuple(part for part in self.parts if part.on == "npu")


@dataclass(frozen=True)
class OneChipManifest(NpuManifest):
    """The manifest of an NPU bundle, perhaps with the C library of NPU and CPU.

    Attributes:
        c_library: the library; None in a bundle without one.
    """

    c_library: FirmwareRecord | None = None

    @property
    def has_code(self) -> bool:
        """Whether there is code for a Cortex-M, which reaches files as it is emulated."""
        return self.c_library is not None


def firmware_of(bundle: Bundle) -> FirmwareRecord | None:
    """Return what a bundle says of its C library; None if it has none."""
    manifest = bundle.manifest
    return manifest.c_library if isinstance(manifest, OneChipManifest) else None


def record_of(bundle: Bundle) -> FirmwareRecord:
    """Return what a manifest says of its C library.

    Raises:
        BundleError: there is none, or it names other files than are listed and hashed.
    """
    record = firmware_of(bundle)
    where = bundle.path / MANIFEST
    if record is None:
        raise BundleError(f"{where} names no C library; compile it again with --artifact c")
    named = {header_of(record.prefix), archive_of(record.prefix)}
    own = {record.header, record.archive}
    files = {name for part in record.parts for name in part.files}
    if own != named or not bundle.files.keys() >= own | files | {*tosa_and_stream(0)}:
        raise BundleError(f"{where} is damaged: it names files that are not; compile it again")
    wanted = [tosa_and_stream(number) for number in range(len(record.streams))]
    if [part.files for part in record.streams] != wanted:
        raise BundleError(f"{where} is damaged: its streams have other names; compile it again")
    return record


def library_of(bundle: Bundle) -> CLibrary:
    """Return the C library of a bundle.

    Raises:
        BundleError: there is none, or it names other files than are listed and hashed.
    """
    return library_in(bundle.path, record_of(bundle).prefix, bundle.manifest)


def tosa_and_stream(number: int) -> tuple[str, str]:
    """Return the files of a part of the NPU: its network, and vela's command stream."""
    stem = f"{FIRST}_{number}" if number else FIRST
    return f"{stem}.tosa", f"{stem}_vela.npz"


def model_name(number: int) -> str:
    """Return the file of a part of the CPU, by its number among all parts."""
    return f"cpu_{number}.onnx"
