"""Lower and build a network for whatever processor a target has: a CPU, or a GPU beside one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import tvm

from mbv3c.bundle import Bundle
from mbv3c.errors import ModelError, ToolError, UnknownOperatorsError
from mbv3c.execution.emulator.kit import emulator_kit, native_arch
from mbv3c.execution.emulator.runner import EmulatedRunner
from mbv3c.execution.host import HostRunner
from mbv3c.execution.opencl.runner import open_opencl
from mbv3c.execution.runners import KernelRunner, Runner, Tensor
from mbv3c.job import NATIVE, Target
from mbv3c.lowering.kernels import NO_CHOICES, Choices, Kernel
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import Array
from mbv3c.parity.compare import Parity, agreement, compare
from mbv3c.parity.gate.blocks import BlockErrors, check_blocks
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.kernel_parity import KernelsParity
from mbv3c.parity.kernels import check_kernels
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.passes import PassReport
from mbv3c.passes.leftovers import why_left
from mbv3c.prepare import check_keep_float, rewritten_for
from mbv3c.progress import Progress
from mbv3c.targets.cpu import kernels as cpu_kernels
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.cores import machine
from mbv3c.targets.cpu.isa import require_isa
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.lower import lower
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.opencl import kernels as gpu_kernels
from mbv3c.targets.opencl import library as opencl
from mbv3c.targets.opencl.gpu import Gpu
from mbv3c.targets.opencl.gpus import GPUS
from mbv3c.targets.opencl.kernels import GpuKernels
from mbv3c.targets.opencl.lower import lower_for_gpu
from mbv3c.targets.table import target_of


def processor_of(target: Target) -> Processor | Gpu:
    """Return what kernels must know of the processor that runs them; `target` must be resolved."""
    if target.gpu:
        return GPUS[target.gpu].gpu
    return machine(target, cpu.tvm_target(target))


def lower_for(
    model: onnx.ModelProto,
    target: Target,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Lowered:
    """Lower a rewritten graph for a resolved target, as `lower` and `lower_for_gpu` do.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
        LimitError: a kernel asks for more than the GPU has.
    """
    processor = processor_of(target)
    if isinstance(processor, Gpu):
        goal = opencl.tvm_target(target)
        return lower_for_gpu(model, processor, target.name, goal, precision, keep_float, choices)
    return lower(model, processor, cpu.tvm_target(target), precision, keep_float, choices)


def build(
    module: tvm.IRModule, target: Target, output: Path, *, symbols: bool = False
) -> dict[str, str]:
    """Build a module for a resolved target; return the source of every kernel of a GPU by name.

    Raises:
        ToolError: the linker failed.
    """
    if target.gpu:
        return opencl.build(module, target, output, symbols=symbols)
    cpu.build(module, target, output, symbols=symbols)
    return {}


_SHOWN_KERNELS = 5


@dataclass(frozen=True)
class Library:
    """A library that was built.

    Attributes:
        lowered: the network that it computes.
        sources: of a GPU the source of every kernel, by its name in the library.
    """

    lowered: Lowered
    sources: dict[str, str]


def build_library(
    model: onnx.ModelProto,
    target: Target,
    output: Path,
    reports: Sequence[PassReport] = (),
    *,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
    symbols: bool = False,
) -> Library:
    """Turn a rewritten graph into the target's shared library, with its symbol table on demand.

    For fp16, nodes whose names match a pattern of `keep_float` stay in fp32. Kernels that
    `choices` knows are as it says.

    Raises:
        UsageError: a pattern matches no node.
        ModelError: TVM lacks operators of the graph. What the passes that could have removed them
            say in `reports` is part of the message.
    """
    check_keep_float(model, keep_float)
    resolved = cpu.resolve(target)
    try:
        lowered = lower_for(model, resolved, precision, keep_float, choices)
    except UnknownOperatorsError as error:
        reasons = why_left(model, error.positions, reports)
        raise ModelError("\n  ".join([str(error), *reasons])) from error
    return Library(lowered, build(lowered.module, resolved, output, symbols=symbols))


_REFERENCE = {
    False: "running onnxruntime on the model as given",
    True: "running onnxruntime on the quantized model",
}


def _wrong(parity: Parity) -> str:
    """Name the kernels that are wrong by themselves."""
    missed = parity.kernels.missed if parity.kernels else []
    return "".join(f"\n  {one}" for one in missed[:_SHOWN_KERNELS])


def _verify(
    folder: Path,
    kernels: list[dict[str, Any]],
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    inputs: list[Tensor],
    references: list[list[ReferenceOutput]],
    progress: Progress,
    given: onnx.ModelProto | None = None,
    keep_float: Sequence[str] = (),
    runner: Runner | None = None,
    choices: Choices = NO_CHOICES,
) -> Parity:
    ran = execute(
        folder, kernels, model, target, precision, inputs, progress, keep_float, runner, choices
    )
    parity = compare(
        ran.outputs,
        references,
        TOLERANCES[precision],
        ran_on=ran.ran_on,
        exact_program=ran.exact_program,
    )
    parity = replace(parity, kernels=ran.alone)
    if given is None:
        return parity
    progress(_REFERENCE[False])
    return replace(parity, as_given=agreement(ran.outputs, list(run_reference(given, inputs))))


@dataclass(frozen=True)
class Executed:
    """What a bundle's library gave.

    Attributes:
        outputs: of every input.
        ran_on, exact_program: as of `Parity`.
        alone: what every kernel by itself has shown; None but of an int8 library.
    """

    outputs: list[list[Tensor]]
    ran_on: str
    exact_program: bool
    alone: KernelsParity | None


def execute(
    folder: Path,
    kernels: list[dict[str, Any]],
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    inputs: list[Tensor],
    progress: Progress,
    keep_float: Sequence[str] = (),
    runner: Runner | None = None,
    choices: Choices = NO_CHOICES,
) -> Executed:
    """Run a bundle's library, or the closest thing to it that this machine can.

    `model` is what the library computes, with the kernels that `choices` knows as it says. Without
    `runner` this machine finds one.

    Raises:
        Mbv3cError: nothing can run it.
    """
    runner = runner or runner_for(target, precision)
    if runner is not None:
        own = Runnable(folder, runner, runner.description, True, kernels)
        standing_in: AbstractContextManager[Runnable] = nullcontext(own)
        progress(f"running the library on {runner.description}")
    else:
        standing_in = _stand_in(folder, model, target, precision, keep_float, choices, progress)
    with standing_in as ran:
        outputs = ran.runner.run(ran.folder, inputs)
        alone = _kernels_alone(
            model, ran.kernels, precision, inputs, ran.runner, ran.folder, progress
        )
    return Executed(outputs, ran.ran_on, ran.exact_program, alone)


@dataclass(frozen=True)
class Runnable:
    """What runs a bundle, or stands in for it.

    Attributes:
        folder: where its library is.
        runner: what runs that.
        ran_on: what executes it, as reports name it.
        exact_program: whether it is the bundle's own.
        kernels: as `describe` lists them; none of GPUs, whose are not run one by one.
    """

    folder: Path
    runner: Runner
    ran_on: str
    exact_program: bool
    kernels: list[dict[str, Any]]


def _stand_in(
    folder: Path,
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    keep_float: Sequence[str],
    choices: Choices,
    progress: Progress,
) -> AbstractContextManager[Runnable]:
    """Make what comes closest to a library that nothing here runs."""
    from mbv3c.targets.cpu.backend import _rebuilt
    from mbv3c.targets.opencl.backend import _hosted

    if target.gpu:
        return _hosted(folder, model, target, precision, keep_float, choices, progress)
    return _rebuilt(model, target, precision, keep_float, progress)


def _kernels_alone(
    model: onnx.ModelProto,
    kernels: list[dict[str, Any]],
    precision: str,
    inputs: list[Tensor],
    runner: Runner,
    folder: Path,
    progress: Progress,
) -> KernelsParity | None:
    """Check every kernel of an int8 library by itself; None of another."""
    if precision != "int8" or not isinstance(runner, KernelRunner):
        return None
    progress("running every kernel by itself")
    # The last input has the largest values: of integers, those that saturate, too.
    return check_kernels(model, kernels, inputs[-1], runner, folder)


def runner_for(target: Target, precision: str = "fp32") -> Runner | None:
    """Return what can run a target's libraries of a precision here, or None.

    A library of this machine's own architecture runs in this process; one for an emulated
    processor runs under qemu if the kit has been fetched. That of a GPU runs on an OpenCL device
    if its host code is for this machine.

    Raises:
        ToolError: this machine has no OpenCL device for a GPU's library, or lacks instructions.
    """
    if target.gpu:
        return open_opencl(precision) if target.arch in (NATIVE, native_arch()) else None
    if target.arch in (NATIVE, native_arch()):
        require_isa(target)
        return HostRunner()
    kit = emulator_kit()
    if kit is not None and target.emulated_as:
        return EmulatedRunner(kit, target.emulated_as)
    return None


def require_runner(target: Target, precision: str = "fp32") -> Runner:
    """Return what can run a target's libraries of a precision here.

    Raises:
        ToolError: nothing can.
    """
    runner = runner_for(target, precision)
    if runner is None:
        raise ToolError(
            f"nothing here runs a library for {target.name}: "
            + (
                f"its host code is for {target.arch}; `mbv3c verify` runs the same kernels"
                if target.gpu
                else "fetch the emulator with `mbv3c doctor --fetch`"
            )
        )
    return runner


def blocks_of(bundle: Bundle, progress: Progress, *, here: bool) -> BlockErrors | str:
    """Run every block of a bundle by itself, or say why that is not possible.

    `here` says whether the bundle runs on this machine.

    Raises:
        Mbv3cError: the library fails.
    """
    if "npu" in bundle.manifest:
        return "The operators of an NPU bundle are checked one by one; see the checks."
    target, precision = target_of(bundle), bundle.manifest["precision"]
    runner = runner_for(target, precision) if here else None
    if not isinstance(runner, KernelRunner):
        return (
            "Blocks were not run by themselves: nothing stops between the kernels where "
            f"{target.name} runs."
        )
    progress("running every block by itself")
    model, _ = rewritten_for(onnx.load(bundle.compiled_model), precision)
    inputs = parity_inputs(bundle.input_shape)
    return check_blocks(model, bundle.manifest["kernels"], inputs, runner, bundle.path)


# The methods of `GpuKernels` that take the shapes of steps, where they are not called as the kind.
_OF_GPUS = {"pointwise": "product", "depthwise": "depthwise_map"}


def schedules(processor: Processor | Gpu) -> dict[str, Any]:
    """Return the modules with `legal` and `default` of a processor, by the kind of kernel."""
    return gpu_kernels.SCHEDULES if isinstance(processor, Gpu) else cpu_kernels.SCHEDULES


def writer(processor: Processor | Gpu, choices: Choices = NO_CHOICES) -> CpuKernels | GpuKernels:
    """Return what writes kernels for a processor."""
    if isinstance(processor, Gpu):
        return GpuKernels(processor, choices)
    return CpuKernels(processor, choices)


def write(
    processor: Processor | Gpu, choices: Choices, kind: str, shape: Any, weights: Sequence[Array]
) -> Kernel:
    """Write a kernel of a kind; weights are as in ONNX."""
    method = _OF_GPUS.get(kind, kind) if isinstance(processor, Gpu) else kind
    kernel: Kernel = getattr(writer(processor, choices), method)(shape, *weights)
    return kernel
