"""What the backends of CPUs and GPUs share: both build a library that a processor loads."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import onnx
import tvm

from mbv3c.bundle import LIBRARY, Bundle, read_bundled
from mbv3c.c_library.check import CLibraryParity, FilesParity
from mbv3c.execution.device.place import Place
from mbv3c.execution.emulator.cycles import Estimator
from mbv3c.execution.runners import Runnable, Runner
from mbv3c.feeds import Array, Feed
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of, memory_of
from mbv3c.lowering.lower import Lowered, own_weight_bytes, together
from mbv3c.lowering.qdq import has_pairs
from mbv3c.manifest import Manifest
from mbv3c.parity.gate.baseline import Footprint
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.precision import INT8, Precision
from mbv3c.prepare import Prepared, rewritten_for
from mbv3c.progress import Progress
from mbv3c.target import Target
from mbv3c.targets.backend import Backend, Built, Call
from mbv3c.targets.evidence import Evidence
from mbv3c.targets.library import building, report, verifying
from mbv3c.targets.library.building import (
    CostModel,
    Library,
    build_library,
    lower_library,
    target_of,
)
from mbv3c.targets.library.judging import golden_from
from mbv3c.targets.library.manifest import (
    LibraryManifest,
    LibraryTargetRecord,
    joined,
    manifest_of,
    programs,
)
from mbv3c.targets.library.target import LibraryTarget, resolve
from mbv3c.targets.library.verifying import Builder, LibraryStages
from mbv3c.tuning.choices import from_elsewhere, tuned_kernels, warnings_of
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.meters import NetworkMeter


class LibraryBackend(Backend):
    """Builds a library of kernels.

    What differs between processors are the methods from `lower_graph` on.
    """

    manifest = LibraryManifest
    program = (LIBRARY,)
    tools = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "onnxsim", "ziglang")
    needed = ("apache-tvm", "apache-tvm-ffi")

    @property
    def built_in(self) -> Mapping[str, str]:
        return {"LLVM": str(tvm.target.codegen.llvm_version_major())}

    @property
    @abstractmethod
    def kernels_version(self) -> int:
        """The version of the kernels, which counts up when their code changes."""

    @abstractmethod
    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        """Lower a rewritten graph; the target of `job` is resolved.

        Raises:
            UnknownOperatorsError: TVM has no importer for some operators.
            ModelError: a node has no known shape, or TVM cannot lower it.
        """

    @abstractmethod
    def build_module(
        self, module: tvm.IRModule, target: LibraryTarget, output: Path, *, symbols: bool = False
    ) -> dict[str, str]:
        """Build a module for a resolved target; return the text of every kernel of a GPU by name.

        Raises:
            ToolError: the linker failed.
        """

    @abstractmethod
    def check_runs(self, target: LibraryTarget) -> None:
        """Make sure that there is a way to run a target's kernels at all.

        Raises:
            UsageError: there is none.
            ToolError: this machine's processor lacks instructions.
        """

    @abstractmethod
    def runner_for(self, target: LibraryTarget, precision: Precision) -> Runner | None:
        """Return what can run a target's libraries of a precision here, or None.

        Raises:
            ToolError: this machine has no OpenCL device for a GPU's library, or lacks
                instructions.
        """

    @abstractmethod
    def no_runner(self, target: LibraryTarget) -> str:
        """Say why nothing runs a target's libraries here, and what to do about it."""

    @abstractmethod
    def stand_in(
        self, bundle: Bundle, job: Job, progress: Progress
    ) -> AbstractContextManager[Runnable]:
        """Make what comes closest to a library that nothing here runs.

        Raises:
            BundleError: the kernels in the library are not those that its model gives.
        """

    def check_artifact(
        self,
        bundle: Bundle,
        opened: Runnable,
        feeds: Sequence[Feed],
        outputs: Sequence[Sequence[Array]],
        lowered: Lowered,
        progress: Progress,
    ) -> CLibraryParity | None:
        """Check what the bundle has beside the library, whose outputs are known; None for nothing.

        `lowered` is what the bundle's model gives.

        Raises:
            ToolError: it cannot be run.
        """
        return None

    def check_files(
        self, bundle: Bundle, lowered: Lowered, progress: Progress
    ) -> FilesParity | None:
        """Write the bundle's files in C once more, and compare; None where it has none.

        `lowered` is what the bundle's model gives.

        Raises:
            BundleError: a file is damaged.
        """
        return None

    @property
    def script(self) -> str:
        """The row of `reproduce.SCRIPTS` that shows a fault of a library."""
        return "library"

    @abstractmethod
    def part_target(self, target: LibraryTarget, *, on_host: bool) -> LibraryTarget:
        """Return what a part of a model is built for, to run here.

        `on_host` says whether this process runs it, and not an emulator or an OpenCL device.
        """

    @abstractmethod
    def builder_here(self, job: Job, *, own: bool) -> Builder | str:
        """Return what builds a target's schedules for this machine, or why nothing can.

        `own` says whether this machine runs the target's own libraries.
        """

    @abstractmethod
    def device_needs(self, target: LibraryTarget) -> bool:
        """Say whether a device that runs the library needs OpenCL."""

    @abstractmethod
    def kernels(self, target: LibraryTarget) -> TunableKernels:
        """Return the kernels that can be tuned for a resolved target."""

    @abstractmethod
    def meter(self, target: LibraryTarget, name: str | None) -> NetworkMeter | CostModel:
        """Return what measures candidates here, or what estimates them where nothing does.

        Raises:
            UsageError: the named meter does not fit the target.
            ToolError: what it needs is not here.
        """

    def estimator(self, target: LibraryTarget) -> Estimator | None:
        """Return what estimates cycles from counted instructions; None where nothing does."""
        return None

    def portable(self, target: LibraryTarget) -> tuple[LibraryTarget, str] | None:
        """Return a target whose kernels this one can take over, and what to call it."""
        return None

    def device_of(self, target: LibraryTarget) -> str:
        """Return the `FAMILY:DEVICE` under which measurements for a target are kept."""
        return target.name.removesuffix("-android")

    # Every library is made and checked in one way.

    def check(self, job: Job, *, verify: bool) -> None:
        target = target_of(job)
        self.check_precision(target, job.precision)
        if verify:
            self.check_runs(target)

    def lower(self, prepared: Prepared, job: Job, progress: Progress) -> Lowered:
        progress(f"compiling for {job.target.name} ({len(prepared.graph.graph.node)} operators)")
        if not job.precision.quantized and has_pairs(prepared.graph):
            progress(f"warning: {self._quantized_as(job.precision)}")
        lowered = lower_library(self, prepared.graph, job, prepared.reports)
        for text in dict.fromkeys(warnings_of(lowered.plan)):
            progress(f"warning: {text}")
        for text in from_elsewhere(lowered.plan, job.choices):
            progress(text)
        return lowered

    def _quantized_as(self, precision: Precision) -> str:
        """Say what becomes of a quantized model in a precision of floats."""
        rounded = f"the model is quantized, and {precision} computes what it rounds with floats"
        faster = "; --precision int8 computes with its integers, and needs less time"
        return rounded + (faster if INT8 in self.wing.precisions else "")

    def check_shapes(self, target: Target, count: int) -> None:
        """Take any number of shapes: each becomes a function of the library."""

    def build(self, prepared: Prepared, lowered: Lowered, job: Job, folder: Path) -> Built:
        (built,) = self.build_all([prepared], [lowered], job, folder)
        return built

    def build_all(
        self, prepared: Sequence[Prepared], lowered: Sequence[Lowered], job: Job, folder: Path
    ) -> Sequence[Built]:
        programs = lowered if len(lowered) == 1 else together(lowered)
        target = resolve(target_of(job))
        sources = self.build_module(programs[0].module, target, folder / LIBRARY)
        self.write_sources(sources, job, folder)
        return [
            Built(
                Library(program, sources, own),
                golden_from(one.reference, job.precision, one.graph, job.dense_weights),
            )
            for one, program, own in zip(
                prepared, programs, own_weight_bytes(programs), strict=True
            )
        ]

    def joined(self, manifests: Sequence[Manifest], built: Sequence[Built]) -> Manifest:
        return joined(manifests, [one.details.own_weight_bytes for one in built])

    programs = staticmethod(programs)

    def write_sources(self, sources: Mapping[str, str], job: Job, folder: Path) -> None:
        """Write the text of kernels into a bundle, if the job asks for it."""

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        lowered, target = built.details.lowered, resolve(target_of(job))
        record = LibraryTargetRecord(target.name, target.triple, target.cpu, target.cores)
        return LibraryManifest(
            **vars(manifest) | {"target": record, "tuned_kernels": tuned_kernels(lowered.plan)},
            kernels=kernels_of(lowered),
            memory=memory_of(lowered),
            without=target.without,
            dense_weights=job.dense_weights,
        )

    def footprint(self, bundle: Bundle) -> Footprint:
        manifest = manifest_of(bundle)
        further = manifest.further_shapes
        weights = sum(record.own_weight_bytes for record in further)
        sizes = {
            "library_bytes": bundle.library.stat().st_size,
            "weight_bytes": manifest.memory.weight_bytes + weights,
            "arena_bytes": max(
                memory.arena_bytes
                for memory in (manifest.memory, *(record.memory for record in further))
            ),
        }
        return Footprint(manifest.target.cores, sizes)

    def stages(
        self, bundle: Bundle, ladder: Ladder, progress: Progress, place: Place | None = None
    ) -> LibraryStages:
        return LibraryStages(self, bundle, ladder, progress, place)

    def evidence(self, bundle: Bundle) -> Evidence:
        manifest = manifest_of(bundle)
        return Evidence(manifest.kernels, manifest.memory)

    def rebuild(self, bundle: Bundle, folder: Path) -> tuple[Call, ...]:
        job = self.job_of(bundle)
        graph, _ = rewritten_for(
            read_bundled(bundle.compiled_model), job.precision, job.dense_weights
        )
        built = build_library(self, graph, job, folder / LIBRARY, symbols=True)
        calls = zip(built.lowered.kernels, built.lowered.plan.steps, strict=True)
        return tuple(Call(*call) for call in calls)

    job_of = building.job_of
    choices = building.measured_choices
    database = building.database_of
    check_tuning = building.check_tuning
    tune = building.tune
    open = verifying.opened
    verify = verifying.verify
    blocks = verifying.blocks
    describe_compiled = report.describe_compiled
    describe_bundle = staticmethod(report.describe_bundle)
