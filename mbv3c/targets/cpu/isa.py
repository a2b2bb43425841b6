"""Instruction sets that a portable library for x86 needs, and whether this machine has them."""

from functools import cache
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.targets.cpu.devices import CPUS, CpuTarget
from mbv3c.targets.library.target import NATIVE

# By the names that targets use: what each needs, in the words of /proc/cpuinfo. These are the
# levels x86-64-v3 and x86-64-v4 of the System V ABI for AMD64, table 3.1, beyond x86-64-v2.
_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
ISAS: dict[str, tuple[str, ...]] = {
    "AVX2": _V3,
    "AVX-512": (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}

_CPUINFO = Path("/proc/cpuinfo")


def missing(target: CpuTarget) -> list[str]:
    """Return what this machine's processor lacks of what a target's libraries need."""
    return [flag for flag in ISAS.get(target.isa, ()) if flag not in _flags()]


def require_isa(target: CpuTarget) -> None:
    """Make sure that this machine executes a target's libraries.

    Raises:
        ToolError: its processor lacks instructions that they have.
    """
    lacking = missing(target)
    if lacking:
        others = [device.name for device in CPUS if device.isa and not missing(device)]
        raise ToolError(
            f"this machine cannot run libraries for {target.name}: its processor has no "
            f"{', '.join(lacking)}; `compile --no-verify` writes them all the same, and here "
            f"{', '.join([*others, 'host_cpu'])} can be run"
        )


def portable(target: CpuTarget) -> CpuTarget | None:
    """Return the target of most instructions that this machine has, for that of the machine.

    None for another target, and where there is none.
    """
    if target.cpu != NATIVE:
        return None
    able = [
        device
        for device in CPUS
        if device.family == target.family and device.isa and not missing(device)
    ]
    return max(able, key=lambda device: len(ISAS[device.isa]), default=None)


@cache
def _flags() -> frozenset[str]:
    """Return what the first processor has; nothing where the system does not tell."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        flag
        for line in lines
        if line.startswith("flags")
        for flag in line.partition(":")[2].split()
    )
