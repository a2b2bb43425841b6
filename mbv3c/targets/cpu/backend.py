"""The backend of CPUs."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from mbv3c import bundle as bundles
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.emulator.cycles import CYCLES, estimator_for
from mbv3c.execution.emulator.kit import emulator_kit, native_arch
from mbv3c.execution.emulator.llvm import LLVM_REMEDY
from mbv3c.execution.host import HostRunner
from mbv3c.execution.timing.processors import choose_cpus
from mbv3c.job import Target
from mbv3c.lowering.describe import describe
from mbv3c.prepare import rewritten_for
from mbv3c.progress import Progress
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.cores import SCHEDULING_MODELS
from mbv3c.targets.cpu.isa import require_isa
from mbv3c.targets.library import Runnable, build_library
from mbv3c.targets.table import find_target

if TYPE_CHECKING:
    from mbv3c.tuning.meters import NetworkMeter


@contextmanager
def _rebuilt(
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    keep_float: Sequence[str],
    progress: Progress,
) -> Iterator[Runnable]:
    """Build a bundle's program for this machine."""
    progress(f"nothing here runs {target.name}: building the same program for this machine")
    with tempfile.TemporaryDirectory(prefix="mbv3c-host-") as name:
        folder = Path(name)
        library, host = folder / bundles.LIBRARY, find_target("host_cpu")
        optimized, _ = rewritten_for(model, precision)
        built = build_library(optimized, host, library, precision=precision, keep_float=keep_float)
        ran_on = f"this machine, rebuilt for it (not the {target.name} library itself)"
        kernels = describe(built.lowered)["kernels"]
        yield Runnable(folder, HostRunner(), ran_on, False, kernels)


def _cpu_runner(target: Target, name: str | None) -> "NetworkMeter":
    from mbv3c.tuning.meters import INSTRUCTIONS, CountingMeter, LocalMeter
    from mbv3c.tuning.session import check_runner

    here = cpu.resolve(target).arch == native_arch()
    name = name or ("local" if here else "emulated")
    check_runner(name, None)
    if name == "local":
        if not here:
            raise UsageError(
                f"{target.name} does not run on this machine; --runner emulated counts its "
                "instructions, estimated its cycles"
            )
        require_isa(target)
        return LocalMeter(tuple(choose_cpus(1)))
    if not target.emulated_as:
        raise UsageError(f"nothing here emulates {target.name}; --runner local times it")
    kit = emulator_kit()
    if kit is None:
        raise ToolError("the emulator is not here; fetch it with `mbv3c doctor --fetch`")
    estimator = estimator_for(SCHEDULING_MODELS.get(target.cpu))
    if name == "estimated" and estimator is None:
        raise ToolError(f"llvm-mca, which estimates cycles, is not here; {LLVM_REMEDY}")
    unit = CYCLES if name == "estimated" else INSTRUCTIONS
    return CountingMeter(kit, target.emulated_as, unit, estimator)
