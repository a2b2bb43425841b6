"""The backend of GPUs."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from mbv3c import bundle as bundles
from mbv3c.errors import BundleError, UsageError
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.opencl.runner import open_opencl
from mbv3c.execution.opencl.runtime import device_info
from mbv3c.execution.timing.processors import choose_cpus
from mbv3c.job import Target, on_this_machine
from mbv3c.lowering.kernels import Choices
from mbv3c.lowering.lower import Lowered
from mbv3c.precision import PRECISIONS
from mbv3c.prepare import rewritten_for
from mbv3c.progress import Progress
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.isa import require_isa
from mbv3c.targets.library import Runnable, build_library, require_runner
from mbv3c.targets.opencl.gpus import GPUS
from mbv3c.tuning.choices import device_of
from mbv3c.tuning.database import Database
from mbv3c.tuning.tasks import tasks_of

if TYPE_CHECKING:
    from mbv3c.tuning.meters import NetworkMeter
    from mbv3c.tuning.session import TunedNetwork


def _check_verifiable(target: Target) -> None:
    """Make sure that there is a way to run a target's kernels at all.

    Raises:
        UsageError: there is none.
        ToolError: this machine's processor lacks instructions.
    """
    require_isa(target)
    language = GPUS[target.gpu].gpu.language if target.gpu else ""
    if language not in ("", "opencl"):
        raise UsageError(
            f"{target.name} is compiled only: nothing here compiles or runs {language} kernels; "
            "--no-verify writes the bundle all the same, and mobile_gpu:generic_opencl verifies "
            "kernels of the same schedules"
        )


@contextmanager
def _hosted(
    folder: Path,
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    keep_float: Sequence[str],
    choices: Choices,
    progress: Progress,
) -> Iterator[Runnable]:
    """Make a GPU bundle's kernels run on this machine's OpenCL device.

    Only the host code, which launches them one after the other, is built again for this machine.

    Raises:
        BundleError: the kernels in the library are not those that its model gives.
    """
    progress(f"building the host code of {target.name} for this machine")
    here = on_this_machine(target)
    runner = require_runner(here, precision)
    with tempfile.TemporaryDirectory(prefix="mbv3c-host-") as name:
        library = Path(name) / bundles.LIBRARY
        built = build_library(
            rewritten_for(model, precision)[0],
            here,
            library,
            precision=precision,
            keep_float=keep_float,
            choices=choices,
        )
        shipped = (folder / bundles.LIBRARY).read_bytes()
        others = [name for name, source in built.sources.items() if source.encode() not in shipped]
        if others:
            raise BundleError(
                f"{folder / bundles.LIBRARY} has another kernel {others[0]} than its model gives "
                f"({len(others)} differ in all); compile it again with this version"
            )
        progress(f"running its {len(built.sources)} kernels on {runner.description}")
        ran_on = f"{runner.description}: the kernels of the library, launched from this machine"
        yield Runnable(Path(name), runner, ran_on, True, [])


def _gpu_runner(target: Target, name: str | None) -> "NetworkMeter | None":
    """Return what measures on an OpenCL device of this machine; None for an estimate."""
    from mbv3c.tuning.meters import LocalMeter

    here = cpu.resolve(target).arch == native_arch()
    name = name or ("local" if here else "estimated")
    if name == "estimated":
        return None
    if not here:
        raise UsageError(
            f"{target.name} does not run on this machine; --device or --tracker measures on one "
            "where it does, --runner estimated lists what the cost model says"
        )
    said = open_opencl().description
    if not device_info().is_gpu:
        said += ", whose times say nothing about a GPU"
    return LocalMeter(tuple(choose_cpus(len(os.sched_getaffinity(0)))), device=said)


def _estimated(database: Database, target: Target, default: Lowered) -> "TunedNetwork":
    from mbv3c.targets.opencl import estimates as gpu_estimates
    from mbv3c.tuning.session import TunedNetwork

    found = gpu_estimates.estimate(tasks_of([default.plan]), GPUS[target.gpu].gpu)
    return TunedNetwork(
        database.folder,
        device_of(target),
        gpu_estimates.DESCRIPTION,
        found.outcome,
        [],
        None,
        found.sentence,
    )


def _check_gpu_precision(target: Target, precision: str) -> None:
    gpu = GPUS[target.gpu].gpu
    if PRECISIONS[precision] == "int8" or (PRECISIONS[precision] == "float16" and not gpu.fp16):
        able = "fp32 or fp16" if gpu.fp16 else "fp32"
        raise UsageError(
            f"{target.name} does not compute in {precision}; choose --precision {able}; "
            "int8 is for CPUs and NPUs"
        )
