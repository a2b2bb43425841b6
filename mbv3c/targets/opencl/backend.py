"""The backend of GPUs: OpenCL, and Metal as far as compiling goes."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import tvm

from mbv3c.bundle import LIBRARY, SOURCES, Bundle, read_listed
from mbv3c.costs.asking import Coster
from mbv3c.errors import BundleError, UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.host import open_opencl
from mbv3c.execution.link import link
from mbv3c.execution.opencl.runtime import device_info
from mbv3c.execution.runners import Runnable, Runner
from mbv3c.execution.timing.latency import choose_cpus
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of
from mbv3c.lowering.lower import VM_PASSES, Lowered, assembled
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.lowering.tir_pipeline import register_gpu_pipeline
from mbv3c.passes.spell_topk import spell_ranks
from mbv3c.precision import FP16, Precision
from mbv3c.progress import Progress
from mbv3c.target import Target
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.building import CostModel, built_again, measured_on, refuse_meter
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.library.target import LibraryTarget, on_this_machine, resolve
from mbv3c.targets.library.target import tvm_target as host_target
from mbv3c.targets.opencl.costs import gpu_coster
from mbv3c.targets.opencl.devices import WING, GpuTarget
from mbv3c.targets.opencl.estimates import DESCRIPTION, estimate
from mbv3c.targets.opencl.gpus import GPUS, Gpu
from mbv3c.targets.opencl.kernels import SCHEDULES, VERSION, GpuKernels, select_gpu
from mbv3c.targets.opencl.limits import check_limits
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.database import Database, tasks_of
from mbv3c.tuning.meters import LocalMeter, NetworkMeter
from mbv3c.tuning.session import TunedNetwork

# TVM would compute offsets into variables and then not use them.
_CONFIG = {"tirx.disable_cse_tir": True}
_POSITIONS = {
    f"convert_int(get_{what}_id({axis}))": f"{what}_{'xyz'[axis]}"
    for what in ("group", "local")
    for axis in range(3)
}
_SPLAT = re.compile(r"\(\((float[24]|half[24])\)\(([^,]+)(?:, \2)+\)\)")
_POSTPROCESS = "tvm_callback_opencl_postproc"  # where TVM's code generator looks for it


def tvm_target(target: GpuTarget) -> tvm.target.Target:
    """Say in TVM's terms what to generate code for; `target` must be resolved."""
    device = GPUS[target.gpu]
    return tvm.target.Target(
        {
            "kind": device.gpu.language,
            # TVM has two names for it, and its schedules read the second.
            "max_num_threads": device.gpu.group_items,
            "max_threads_per_block": device.gpu.group_items,
            "max_shared_memory_per_block": device.gpu.local_bytes,
            "thread_warp_size": device.gpu.warp,
            **({"device": device.tvm_device} if device.tvm_device else {}),
        },
        host=host_target(target),
    )


def build(
    module: tvm.IRModule, target: GpuTarget, output: Path, *, symbols: bool = False
) -> dict[str, str]:
    """Compile an assembled module and link it to the shared library `output`.

    Returns the source of every kernel by its name; they are in the library as they are. `symbols`
    keeps the symbol table of the host code.

    Raises:
        ToolError: the linker failed.
    """
    tvm.register_global_func(_POSTPROCESS, lambda source, target: readable(source), override=True)
    context = tvm.transform.PassContext
    with context(config={**context.current().config, **_CONFIG}):
        executable = tvm.compile(
            module,
            target=tvm_target(target),
            relax_pipeline=tvm.transform.Sequential(VM_PASSES),
            tir_pipeline=register_gpu_pipeline(),
        )
    link(executable, target.triple, output, name=target.name, symbols=symbols)
    return kernel_sources(executable.mod)


def kernel_sources(module: tvm.runtime.Module) -> dict[str, str]:
    """Return the source of every kernel of a module and those that it imports."""
    sources: dict[str, str] = {}
    if module.kind in ("opencl", "metal"):
        sources.update(_split(module.inspect_source()))
    for imported in module.imports:
        sources.update(kernel_sources(imported))
    return sources


def _split(text: str) -> dict[str, str]:
    """Return the parts of a module's source, each of which is compiled by itself, by kernel."""
    marker = "// Function: "
    parts = (part.split("\n", 1) for part in text.split(marker)[1:])
    return {name.strip(): source.strip() for name, source in parts}


def readable(source: str) -> str:
    """Return TVM's OpenCL C with the same meaning and a third of the text.

    Each kernel comes with declarations of all others, which makes the text of a network grow with
    the square of their number; positions are asked for wherever they are used; and vectors of one
    number name it in every lane.
    """
    lines = [
        line
        for line in source.splitlines()
        if not (line.startswith("__kernel void") and line.endswith(";"))
    ]
    return _SPLAT.sub(r"((\1)(\2))", "\n".join(_with_positions(lines)))


def _with_positions(lines: Sequence[str]) -> list[str]:
    """Name the positions that a kernel asks for, at its beginning."""
    named: list[str] = []
    start = 0
    for line in lines:
        if line.startswith("__kernel void"):
            start = len(named) + 1
        for call, name in _POSITIONS.items():
            if call in line:
                line = line.replace(f"({call})", name)
                declared = f"  const int {name} = {call};"
                if declared not in named[start:]:
                    named.insert(start, declared)
        named.append(line)
    return named


_HEADING = re.compile(r"^// (\w+)\n", re.MULTILINE)


def format_sources(sources: dict[str, str]) -> str:
    """Return kernels as one text to read."""
    parts: Sequence[str] = [f"// {name}\n{source}\n" for name, source in sources.items()]
    return "\n".join(parts)


def is_text_of(text: str, kernels: Collection[str], library: bytes) -> bool:
    """Say whether a text is what `format_sources` makes of all kernels of a library.

    Args:
        text: the text.
        kernels: the names of the kernels.
        library: the bytes of the library, in which sources lie as they are.
    """
    first, *pieces = _HEADING.split(text)
    names, bodies = pieces[::2], pieces[1::2]
    sources = {
        name: body.removesuffix("\n\n" if at + 1 < len(bodies) else "\n")
        for at, (name, body) in enumerate(zip(names, bodies, strict=True))
    }
    return (
        not first
        and format_sources(sources) == text
        and set(names) == {f"{kernel}_kernel" for kernel in kernels}
        and all(source and source.encode() in library for source in sources.values())
    )


def lower_for_gpu(
    model: onnx.ModelProto, gpu: Gpu, target: tvm.target.Target, job: Job
) -> Lowered:
    """Lower a rewritten graph with fixed shapes to the kernels of a GPU, in fp32 or fp16.

    Args:
        model: the graph.
        gpu: what kernels must know of the GPU.
        target: the GPU and the processor beside it in TVM's terms.
        job: the precision, what stays in fp32, the choices, and the target's name.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
        LimitError: a kernel asks for more than the GPU has.
    """
    model = spell_ranks(model)[0]
    check_operators(model)
    plan = select_gpu(model, gpu, target, job.precision.dtype, job.keep_float, job.choices)
    check_limits(plan, gpu, job.target.name)
    return assembled(plan)


_METERS = ("local", "estimated", "rpc")


@dataclass(frozen=True)
class GpuOptions:
    """How to compile for a GPU.

    Attributes:
        emit_source: whether the bundle gets the kernels as text, too.
    """

    emit_source: bool = False


class OpenClBackend(LibraryBackend):
    """Compiles for mobile GPUs, whose kernels a processor launches."""

    wing = WING

    @property
    def kernels_version(self) -> int:
        return VERSION

    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        return target, GpuOptions(**given)

    def check_precision(self, target: Target, precision: Precision) -> None:
        fp16 = gpu_of(_gpu(target)).fp16
        if precision in self.wing.precisions and (fp16 or precision != FP16):
            return
        able = "fp32 or fp16" if fp16 else "fp32"
        raise UsageError(
            f"{target.name} does not compute in {precision}; choose --precision {able}; "
            "int8 is for CPUs and NPUs"
        )

    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        target = _gpu(job.target)
        return lower_for_gpu(graph, gpu_of(target), tvm_target(target), job)

    def build_module(
        self, module: tvm.IRModule, target: LibraryTarget, output: Path, *, symbols: bool = False
    ) -> dict[str, str]:
        return build(module, _gpu(target), output, symbols=symbols)

    def write_sources(self, sources: Mapping[str, str], job: Job, folder: Path) -> None:
        if not (isinstance(job.options, GpuOptions) and job.options.emit_source):
            return

        language = gpu_of(_gpu(job.target)).language
        (folder / SOURCES[language]).write_text(format_sources(dict(sources)))

    def check_files(self, bundle: Bundle, lowered: Lowered, progress: Progress) -> None:
        """Compare the text of kernels beside a library with the library."""
        shapes = manifest_of(bundle).shapes
        kernels = {kernel.kernel for shape in shapes for kernel in shape.kernels}
        for name in bundle.files.keys() & set(SOURCES.values()):
            text, library = read_listed(bundle, name), read_listed(bundle, LIBRARY)
            if not is_text_of(text.decode(errors="replace"), kernels, library):
                raise BundleError(
                    f"{bundle.path / name} is not the text of the kernels in {LIBRARY}; compile "
                    "it again"
                )

    def check_runs(self, target: LibraryTarget) -> None:
        language = gpu_of(_gpu(target)).language
        if language != "opencl":
            raise UsageError(
                f"{target.name} is compiled only: nothing here compiles or runs {language} "
                "kernels; --no-verify writes the bundle all the same, and "
                "mobile_gpu:generic_opencl verifies kernels of the same schedules"
            )

    def runner_for(self, target: LibraryTarget, precision: Precision) -> Runner | None:
        """Return this machine's OpenCL device if the host code is for this machine."""
        return open_opencl(precision) if target.runs_natively else None

    def no_runner(self, target: LibraryTarget) -> str:
        return f"its host code is for {target.arch}; `mbv3c verify` runs the same kernels"

    @contextmanager
    def stand_in(self, bundle: Bundle, job: Job, progress: Progress) -> Iterator[Runnable]:
        """Make a bundle's kernels run on this machine's OpenCL device.

        Only the host code, which launches them one after the other, is built again.
        """
        progress(f"building the host code of {job.target.name} for this machine")
        here = replace(job, target=on_this_machine(_gpu(job.target)))
        runner = self.runner_for(_gpu(here.target), job.precision)
        assert runner is not None
        with built_again(self, bundle, here) as (folder, library):
            shipped = bundle.library.read_bytes()
            # Of several shapes one is built here, and its kernels have other numbers.
            names = (kernel.kernel for kernel in manifest_of(bundle).kernels)
            numbers = dict(zip(library.lowered.kernels, names, strict=True))
            others = [
                name
                for name, text in library.sources.items()
                if _renamed(text, numbers).encode() not in shipped
            ]
            if others:
                raise BundleError(
                    f"{bundle.path / LIBRARY} has another kernel {others[0]} than its model gives "
                    f"({len(others)} differ in all); compile it again with this version"
                )
            progress(f"running its {len(library.sources)} kernels on {runner.description}")
            ran_on = (
                f"{runner.description}: the kernels of the library, launched from this machine"
            )
            yield Runnable(folder, runner, ran_on, kernels=kernels_of(library.lowered))

    @property
    def script(self) -> str:
        return "opencl"

    def part_target(self, target: LibraryTarget, *, on_host: bool) -> LibraryTarget:
        return on_this_machine(target)

    def builder_here(self, job: Job, *, own: bool) -> str:
        return "kernels of a GPU are run as they are"

    def device_needs(self, target: LibraryTarget) -> bool:
        return True

    def kernels(self, target: LibraryTarget) -> TunableKernels:
        gpu = _gpu(target)
        resolved = resolve(gpu)
        return TunableKernels(
            measured_on(self, gpu),
            gpu.name,
            gpu_of(gpu),
            SCHEDULES,
            GpuKernels,
            lambda module, output: build(module, resolved, output, symbols=True),
            # These take the shapes of steps, which do more than the kind says.
            {"pointwise": "product", "depthwise": "depthwise_map"},
        )

    def meter(self, target: LibraryTarget, name: str | None) -> NetworkMeter | CostModel:
        here = resolve(target).arch == native_arch()
        name = name or ("local" if here else "estimated")
        if name not in _METERS:
            refuse_meter(target, name, _METERS)
        if name == "estimated":
            return CostModel(partial(self._estimate, target))
        if not here:
            raise UsageError(
                f"{target.name} does not run on this machine; --device or --tracker measures on "
                "one where it does, --runner estimated lists what the cost model says"
            )
        description = open_opencl().description
        if not device_info().is_gpu:
            description += ", whose times say nothing about a GPU"
        return LocalMeter(tuple(choose_cpus(len(os.sched_getaffinity(0)))), device=description)

    def coster(self, target: Target, precision: Precision, place: Place | None = None) -> Coster:
        gpu = _gpu(target)
        code = tvm_target(resolve(gpu))
        return gpu_coster(self, gpu, precision, place, (gpu_of(gpu), code))

    def _estimate(
        self, target: LibraryTarget, default: Lowered, database: Database
    ) -> TunedNetwork:
        estimated = estimate(tasks_of([default.plan]), gpu_of(_gpu(target)))
        return TunedNetwork(
            database.folder,
            self.device_of(target),
            DESCRIPTION,
            estimated.outcome,
            [],
            None,
            estimated.sentence,
        )


_KERNEL_NAME = re.compile(r"\b\w+?_\d+(?=_kernel)")


def _renamed(source: str, names: Mapping[str, str]) -> str:
    """Return the text of a kernel with other names for the functions that it belongs to."""
    return _KERNEL_NAME.sub(lambda found: names.get(found[0], found[0]), source)


def gpu_of(target: GpuTarget) -> Gpu:
    """Return what kernels must know of a target's GPU."""
    return GPUS[target.gpu].gpu


def _gpu(target: Target) -> GpuTarget:
    assert isinstance(target, GpuTarget)
    return target


BACKEND = OpenClBackend()
