"""Which cores compute in a precision."""

from mbv3c.errors import UsageError
from mbv3c.precision import BF16, FP16, Precision
from mbv3c.targets.cpu.cores import CORES, processor_of
from mbv3c.targets.cpu.devices import CPUS, CpuTarget

_NAMED = 5


def require_precision(target: CpuTarget, precision: Precision, instead: str) -> None:
    """Make sure that the processor of a resolved target computes in a precision.

    `instead` is what to do for that target.

    Raises:
        UsageError: it does not; the message names targets that do.
    """
    if _computes_in(precision, target):
        return
    able = [cpu.name for cpu in CPUS if cpu.cpu in CORES and _computes_in(precision, cpu)]
    raise UsageError(
        f"{target.name} does not compute in {precision}; these do: {', '.join(able[:_NAMED])} and "
        f"more; for {target.name} {instead}"
    )


def _computes_in(precision: Precision, target: CpuTarget) -> bool:
    processor = processor_of(target)
    return {FP16: processor.fp16, BF16: processor.bf16}.get(precision, True)
