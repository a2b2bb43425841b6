"""What was asked: for which device, in which precision, with which choices."""

from dataclasses import dataclass, replace

from mbv3c.errors import UsageError

NATIVE = "native"


@dataclass(frozen=True)
class Target:
    """One device of a family.

    Attributes:
        family: what the user writes before the colon.
        device: what the user writes after it.
        backend: the module of `mbv3c.targets` that builds for it.
        triple: LLVM target triple; `native` is the machine that compiles.
        cpu: LLVM processor name; `native` likewise.
        arch: machine of the library, as `uname -m` prints it; `native` likewise.
        cores: number of cores that one inference may use.
        example: a board or phone with this processor.
        emulated_as: name of the processor in QEMU; empty where QEMU has none.
        gpu: row of `GPUS` whose kernels the processor launches; empty where it computes itself.
        isa: row of `ISAS` that every processor of a portable target has; empty of one processor.
    """

    family: str
    device: str
    backend: str
    triple: str
    cpu: str
    arch: str
    cores: int
    example: str
    emulated_as: str = ""
    gpu: str = ""
    isa: str = ""

    @property
    def name(self) -> str:
        return f"{self.family}:{self.device}"


MOST_CORES = 64


def on_this_machine(target: Target) -> Target:
    """Return a GPU's target whose host code is for the machine that compiles."""
    return replace(target, triple=NATIVE, cpu=NATIVE, arch=NATIVE)


def with_cores(target: Target, cores: int) -> Target:
    """Return a target of which one inference may use another number of cores.

    Raises:
        UsageError: that is none from 1 to MOST_CORES, or a GPU computes.
    """
    if target.gpu:
        raise UsageError(f"--cores is for CPUs; on {target.name} the GPU computes")
    if not 1 <= cores <= MOST_CORES:
        raise UsageError(f"--cores {cores} is not possible; choose 1 to {MOST_CORES}")
    return replace(target, cores=cores)
