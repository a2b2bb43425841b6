"""The backend of CPUs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import tvm

from mbv3c.bundle import Bundle, read_bundled
from mbv3c.c_library.again import check_files, check_library_files
from mbv3c.c_library.application import write_app
from mbv3c.c_library.build import build_c_library
from mbv3c.c_library.c_source.build import build_c_source
from mbv3c.c_library.c_source.check import CSourceParity, check_c_source, has_weights
from mbv3c.c_library.check import (
    CLibraryParity,
    FilesParity,
    check_c_library,
    has_constants,
)
from mbv3c.c_library.driver import constant_block
from mbv3c.c_library.run import Machine
from mbv3c.costs.asking import Coster
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.emulator.cycles import CYCLES, Estimator, estimator_for
from mbv3c.execution.emulator.kit import emulator_kit, native_arch
from mbv3c.execution.emulator.llvm import LLVM_REMEDY
from mbv3c.execution.emulator.runner import EmulatedRunner
from mbv3c.execution.host import HostRunner
from mbv3c.execution.runners import Runnable, Runner
from mbv3c.execution.timing.latency import choose_cpus
from mbv3c.feeds import Array, Feed
from mbv3c.job import Job
from mbv3c.lowering import traced
from mbv3c.lowering.describe import kernels_of
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import NO_CHOICES
from mbv3c.lowering.quantization import Quantization
from mbv3c.manifest import Manifest
from mbv3c.precision import BF16, FP16, Precision
from mbv3c.prepare import Prepared, rewritten_for
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import OnDevice
from mbv3c.target import Target
from mbv3c.targets.backend import Built
from mbv3c.targets.cpu.artifact import (
    APP,
    C_SOURCE,
    ArtifactOptions,
    app_prefix,
    c_library_of,
    c_source_of,
    read_artifact,
)
from mbv3c.targets.cpu.building import build, lower
from mbv3c.targets.cpu.cores import SCHEDULING_MODELS, processor_of
from mbv3c.targets.cpu.costs import cpu_coster
from mbv3c.targets.cpu.devices import CORES as THREADS
from mbv3c.targets.cpu.devices import HOST_CPU, WING, CpuTarget
from mbv3c.targets.cpu.drawing import draw_integers
from mbv3c.targets.cpu.in_integers import computed_in_integers
from mbv3c.targets.cpu.isa import portable, require_isa
from mbv3c.targets.cpu.kernels import SCHEDULES, VERSION, CpuKernels
from mbv3c.targets.cpu.precisions import require_precision
from mbv3c.targets.cpu.schedules.integer.elementwise import Dequantize, generate_dequantize
from mbv3c.targets.library import building
from mbv3c.targets.library.again import compiled_for
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.building import built_again, measured_on, target_of
from mbv3c.targets.library.c_request import c_request, request_of
from mbv3c.targets.library.manifest import LibraryManifest, manifest_of
from mbv3c.targets.library.target import LibraryTarget, resolve, tvm_target
from mbv3c.targets.library.verifying import Builder
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.meters import INSTRUCTIONS, CountingMeter, LocalMeter, NetworkMeter

_IN_C = {FP16: "half precision", BF16: "bfloat16"}  # what it lacks


class CpuBackend(LibraryBackend):
    """Compiles for CPUs with NEON or AVX."""

    wing = WING

    @property
    def kernels_version(self) -> int:
        return VERSION

    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        cores, options = given.get("cores"), read_artifact(given)
        if cores is None:
            return target, options
        THREADS.check(cores)
        return replace(_cpu(target), cores=cores), options

    def check_precision(self, target: Target, precision: Precision) -> None:
        require_precision(resolve(_cpu(target)), precision, "leave --precision out")

    def on_device(self, job: Job) -> OnDevice | None:
        return computed_in_integers

    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        return lower(graph, processor_of(_cpu(job.target)), job)

    def build_module(
        self, module: tvm.IRModule, target: LibraryTarget, output: Path, *, symbols: bool = False
    ) -> dict[str, str]:
        build(module, target, output, symbols=symbols)
        return {}

    def check(self, job: Job, *, verify: bool) -> None:
        super().check(job, verify=verify)
        if not isinstance(job.options, ArtifactOptions):
            return
        if job.options.artifact == C_SOURCE and job.precision in _IN_C:
            raise UsageError(
                f"C11 has no {_IN_C[job.precision]}: choose --precision fp32 or int8 for "
                "--artifact c-source, or --artifact c"
            )
        if len(job.shapes) > 1:
            raise UsageError(
                "a C library takes inputs of one shape: compile one for each, with --input-shape "
                "and a --prefix of its own"
            )

    def build_all(
        self, prepared: Sequence[Prepared], lowered: Sequence[Lowered], job: Job, folder: Path
    ) -> Sequence[Built]:
        built = super().build_all(prepared, lowered, job, folder)
        if not isinstance(job.options, ArtifactOptions):
            return built
        (only,), (program,), (made,) = prepared, lowered, built
        target = resolve(target_of(job))
        request = c_request(only, job, self.tools, job.options.prefix, made.golden)
        if job.options.artifact == APP:
            write_app(program, request, folder)
            return built
        if job.options.artifact == C_SOURCE:
            plain = self._lowered_plainly(only.graph, job, program)
            source = build_c_source(plain, tvm_target(target), request, folder)
            return [replace(made, details=replace(made.details, c_source=source))]
        record = build_c_library(program, tvm_target(target), target.triple, request, folder)
        return [replace(made, details=replace(made.details, c_library=record))]

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        completed = super().complete(manifest, built, job)
        assert isinstance(completed, LibraryManifest)
        made = built.details
        return replace(completed, c_library=made.c_library, c_source=made.c_source)

    def _lowered_plainly(self, graph: onnx.ModelProto, job: Job, lowered: Lowered) -> Lowered:
        """Return kernels without instructions of one processor, which C11 lacks.

        `lowered` is the network in the target's own kernels.
        """
        target = resolve(_cpu(target_of(job)))
        processor = processor_of(target)
        if not job.precision.quantized or processor.integers == "portable":
            return lowered
        plain = replace(processor, integers="portable")
        return lower(graph, plain, replace(job, target=target))

    def check_artifact(
        self,
        bundle: Bundle,
        opened: Runnable,
        feeds: Sequence[Feed],
        outputs: Sequence[Sequence[Array]],
        lowered: Lowered,
        progress: Progress,
    ) -> CLibraryParity | None:
        manifest = manifest_of(bundle)
        job = self.job_of(bundle)
        target, runner = resolve(target_of(job)), opened.runner
        machine = Machine(target.arch)
        if isinstance(runner, EmulatedRunner):
            machine = Machine(target.arch, runner.kit, runner.cpu)
        if manifest.c_source is not None:
            source = c_source_of(bundle)
            graph, _ = rewritten_for(
                read_bundled(bundle.compiled_model), job.precision, job.dense_weights
            )
            if not has_weights(source, self._lowered_plainly(graph, job, lowered)):
                return CSourceParity(constants_differ=True)
            if not opened.exact_program:
                return CSourceParity()
            progress(f"compiling the C sources, and running them on {opened.ran_on}")
            return check_c_source(source, machine, target.cpu, feeds, outputs)
        if manifest.c_library is None:
            return None
        library = c_library_of(bundle)
        alignment = manifest.c_library.arena_alignment
        if not has_constants(library, constant_block(lowered, alignment).data):
            return CLibraryParity(constants_differ=True)
        if not opened.exact_program:
            return CLibraryParity()
        progress(f"running the C library on {opened.ran_on}")
        return check_c_library(library, machine, feeds, outputs)

    def check_files(
        self, bundle: Bundle, lowered: Lowered, progress: Progress
    ) -> FilesParity | None:
        manifest, prefix = manifest_of(bundle), app_prefix(bundle)
        record = manifest.c_library
        if record is None and manifest.c_source is None and not prefix:
            return None
        progress("writing the files in C once more")
        if manifest.c_source is not None:
            return self._check_sources(bundle, lowered)
        if record is None:
            request = request_of(bundle, prefix)
            return check_files(bundle, lambda folder: write_app(lowered, request, folder))
        target = resolve(target_of(compiled_for(bundle, self.job_of(bundle))))
        request = request_of(bundle, c_library_of(bundle).prefix)
        return check_library_files(bundle, record, lowered, tvm_target(target), request)

    def _check_sources(self, bundle: Bundle, lowered: Lowered) -> FilesParity:
        job = self.job_of(bundle)
        target = resolve(target_of(compiled_for(bundle, job)))
        request = request_of(bundle, c_source_of(bundle).prefix)
        graph, _ = rewritten_for(
            read_bundled(bundle.compiled_model), job.precision, job.dense_weights
        )
        plain = self._lowered_plainly(graph, job, lowered)

        def write(folder: Path) -> None:
            build_c_source(plain, tvm_target(target), request, folder)

        return check_files(bundle, write)

    def check_runs(self, target: LibraryTarget) -> None:
        require_isa(_cpu(target))

    def runner_for(self, target: LibraryTarget, precision: Precision) -> Runner | None:
        """Return this process for a library of its own architecture, else qemu if it is here."""
        if target.runs_natively:
            self.check_runs(target)
            return HostRunner()
        kit, emulated_as = emulator_kit(), _cpu(target).emulated_as
        return EmulatedRunner(kit, emulated_as) if kit is not None and emulated_as else None

    def no_runner(self, target: LibraryTarget) -> str:
        return "fetch the emulator with `mbv3c doctor --fetch`"

    def estimator(self, target: LibraryTarget) -> Estimator | None:
        return estimator_for(SCHEDULING_MODELS.get(target.cpu))

    @contextmanager
    def stand_in(self, bundle: Bundle, job: Job, progress: Progress) -> Iterator[Runnable]:
        """Build a bundle's program for this machine."""
        name = job.target.name
        progress(f"nothing here runs {name}: building the same program for this machine")
        here = replace(job, target=HOST_CPU, choices=NO_CHOICES)
        with built_again(self, bundle, here) as (folder, library):
            ran_on = f"this machine, rebuilt for it (not the {name} library itself)"
            yield Runnable(folder, HostRunner(), ran_on, False, kernels_of(library.lowered))

    def part_target(self, target: LibraryTarget, *, on_host: bool) -> LibraryTarget:
        return HOST_CPU if on_host and not target.runs_natively else target

    def builder_here(self, job: Job, *, own: bool) -> Builder | str:
        if job.precision.dtype == "float16" and not own:
            return "it may not compute in half precision"
        return self._build_here

    def _build_here(self, graph: onnx.ModelProto, job: Job, output: Path) -> Lowered:
        target, here = resolve(_cpu(job.target)), resolve(HOST_CPU)
        processor = processor_of(target)
        if target.arch != here.arch:
            # The others are instructions of that processor.
            processor = replace(processor, integers="portable", bf16=False)
        lowered = lower(graph, processor, replace(job, target=here))
        build(lowered.module, here, output)
        return lowered

    def device_needs(self, target: LibraryTarget) -> bool:
        return False

    def kernels(self, target: LibraryTarget) -> TunableKernels:
        cpu = resolve(_cpu(target))
        return TunableKernels(
            measured_on(self, target),
            cpu.name,
            processor_of(cpu),
            SCHEDULES,
            CpuKernels,
            lambda module, output: build(module, cpu, output, symbols=True),
            {traced.KIND: "traced"},
            draw_integers,
            lambda size, processor: generate_dequantize(
                Dequantize(size, Quantization(1.0, 0)), processor
            ),
            tvm_target(cpu),
        )

    def device_of(self, target: LibraryTarget) -> str:
        own = _cpu(target)
        if own.device == HOST_CPU.device:
            return f"{own.family}:{resolve(own).cpu}"
        return super().device_of(target)

    def portable(self, target: LibraryTarget) -> tuple[LibraryTarget, str] | None:
        wider = portable(_cpu(target))
        return None if wider is None else (wider, f"another processor with {wider.isa}")

    def meter(self, target: LibraryTarget, name: str | None) -> NetworkMeter:
        here = resolve(target).arch == native_arch()
        name = name or ("local" if here else "emulated")
        if name not in building.METERS:
            building.refuse_meter(target, name, building.METERS)
        return self._timed(target) if name == "local" else self._counted(target, name)

    def coster(self, target: Target, precision: Precision, place: Place | None = None) -> Coster:
        return cpu_coster(self, _cpu(target), precision, place)

    def _timed(self, target: LibraryTarget) -> NetworkMeter:
        if resolve(target).arch != native_arch():
            raise UsageError(
                f"{target.name} does not run on this machine; --runner emulated counts its "
                "instructions, estimated its cycles"
            )
        self.check_runs(target)
        return LocalMeter(tuple(choose_cpus(1)))

    def _counted(self, target: LibraryTarget, name: str) -> NetworkMeter:
        emulated_as = _cpu(target).emulated_as
        if not emulated_as:
            raise UsageError(f"nothing here emulates {target.name}; --runner local times it")
        kit = emulator_kit()
        if kit is None:
            raise ToolError("the emulator is not here; fetch it with `mbv3c doctor --fetch`")
        estimator = self.estimator(target)
        if name == "estimated" and estimator is None:
            raise ToolError(f"llvm-mca, which estimates cycles, is not here; {LLVM_REMEDY}")
        unit = CYCLES if name == "estimated" else INSTRUCTIONS
        return CountingMeter(kit, emulated_as, unit, estimator)


def _cpu(target: Target) -> CpuTarget:
    assert isinstance(target, CpuTarget)
    return target


BACKEND = CpuBackend()
