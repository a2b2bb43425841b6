"""Check that a library computes what onnxruntime computes: whole, by kernels, and by stages."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from mbv3c.bundle import Bundle, entry_for, read_bundled
from mbv3c.errors import ToolError
from mbv3c.execution.device.machine import DeviceNeeds
from mbv3c.execution.device.place import Place
from mbv3c.execution.device.runner import RpcRunner
from mbv3c.execution.host import HostRunner
from mbv3c.execution.native.kernels import compiled_anew
from mbv3c.execution.runners import KernelRunner, NoStopsError, Runnable, Runner
from mbv3c.feeds import Array, Feed
from mbv3c.graphs.narrow import narrowed
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import NO_CHOICES, Choices
from mbv3c.lowering.unchecked import without_checks
from mbv3c.parity.compare import Parity
from mbv3c.parity.gate.blocks import BlockErrors, check_blocks
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.kernel_verdict import KernelsParity
from mbv3c.parity.kernels import check_kernels
from mbv3c.parity.ladder.climb import blame_library
from mbv3c.parity.ladder.ladder import BREAKS, Ladder, Skipped
from mbv3c.parity.ladder.stages import ImportStage, LibraryStage, StoreStage, covering
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.precision import FP32, INT8
from mbv3c.prepare import Prepared, Reference, rewritten_for
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder
from mbv3c.targets.library.again import constants_of, lowered_again
from mbv3c.targets.library.building import build_library, job_of, target_of
from mbv3c.targets.library.judging import ON_GIVEN, beside_given, compared
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.reference import reference_of, seeded_reference
from mbv3c.tuning.choices import Recorded

if TYPE_CHECKING:
    from mbv3c.targets.library.backend import LibraryBackend

# Builds the kernels that a target's processor gets, into a file, for this machine.
Builder = Callable[[onnx.ModelProto, Job, Path], Lowered]


def open_device(bundle: Bundle, place: Place, *, opencl: bool) -> RpcRunner:
    """Reach a device that is to run a bundle, and learn what it is.

    Raises:
        UsageError: the bundle is for another architecture than the device's.
        ToolError: the device cannot be reached, hangs, or lacks the OpenCL device that the bundle
            needs.
    """
    runner = RpcRunner(place, opencl, seconds=place.seconds)
    runner.look()
    machine, record = runner.machine, manifest_of(bundle).target
    if machine is not None:
        needs = DeviceNeeds(record.name, record.triple, record.cpu, opencl)
        needs.check(
            machine,
            f"{bundle.path} has a library for",
            f"the {place}",
            f"compile the model for {machine.architecture}",
        )
    return runner


@contextmanager
def opened(
    backend: "LibraryBackend",
    bundle: Bundle,
    progress: Progress,
    place: Place | None = None,
    *,
    stand_in: bool = True,
) -> Iterator[Runnable]:
    """Open what runs a bundle, as `Backend.open` says.

    Raises:
        UsageError: there is no way to run the bundle's kernels.
        ToolError: what runs them is missing.
    """
    job = job_of(backend, bundle)
    target, kernels = target_of(job), manifest_of(bundle).kernels
    if place is not None:
        device = open_device(bundle, place, opencl=backend.device_needs(target))
        yield Runnable(bundle.path, device, device.description, kernels=kernels)
        return
    if stand_in:
        backend.check_runs(target)
    runner = backend.runner_for(target, job.precision)
    if runner is not None:
        estimator = backend.estimator(target)
        yield Runnable(bundle.path, runner, runner.description, True, kernels, estimator)
        return
    if not stand_in:
        raise ToolError(
            f"nothing here runs a library for {target.name}: {backend.no_runner(target)}"
        )
    with backend.stand_in(bundle, job, progress) as standing_in:
        yield standing_in


_ON_QUANTIZED = "running onnxruntime on the quantized model"


def verify(
    backend: "LibraryBackend",
    bundle: Bundle,
    progress: Progress,
    place: Place | None = None,
    known: Prepared | None = None,
    inputs: list[Feed] | None = None,
) -> Parity:
    """Check a bundle's library, as `Backend.verify` says.

    The reference of an int8 bundle is the quantized model; the model as given is beside it. The
    constants of the library are compared with those that the model gives.

    Raises:
        Mbv3cError: the bundle cannot be run.
    """
    with backend.open(bundle, progress, place=place) as opened:
        progress(_ON_QUANTIZED if bundle.quantized else ON_GIVEN)
        reference = reference_of(bundle, known, inputs)
        if opened.exact_program:
            progress(f"running the library on {opened.ran_on}")
        outputs = opened.runner.run(opened.folder, reference.inputs)
        again = lowered_again(backend, bundle, known)
        try:
            alone = kernels_alone(again.graph, reference, opened, progress)
            not_checked = ""
        except NoStopsError as error:
            alone, not_checked = None, str(error)
        fed = reference.inputs
        artifact = backend.check_artifact(bundle, opened, fed, outputs, again.lowered, progress)
    seeded = seeded_reference(bundle, known, reference, own=inputs is not None)
    dense_weights = manifest_of(bundle).dense_weights
    parity = compared(bundle, opened, outputs, reference, seeded, again.graph, dense_weights)
    parity = replace(
        parity,
        files=None if known else backend.check_files(bundle, again.lowered, progress),
        kernels=alone,
        constants=constants_of(bundle, again, entry_for(bundle.path, reference.inputs[0])),
        c_library=artifact,
        not_checked=not_checked,
        proven=not bundle.precision.quantized,
    )
    return beside_given(parity, bundle, outputs, reference, known, inputs, progress)


def kernels_alone(
    graph: onnx.ModelProto, reference: Reference, opened: Runnable, progress: Progress
) -> KernelsParity:
    """Check every kernel of a library by itself; `graph` is what the library was made of.

    Raises:
        NoStopsError: nothing stops between the kernels.
    """
    if not isinstance(opened.runner, KernelRunner):
        raise NoStopsError(f"{opened.ran_on} does not stop between kernels")
    progress("running every kernel by itself")
    # The last seeded input has the largest values: of integers, those that saturate, too.
    x = reference.inputs[-1]
    return check_kernels(graph, opened.kernels, x, opened.runner, opened.folder)


def blocks(
    backend: "LibraryBackend",
    bundle: Bundle,
    progress: Progress,
    inputs: list[Feed] | None = None,
) -> BlockErrors | str:
    """Run every block of a bundle by itself, or say why that is not possible.

    Raises:
        Mbv3cError: the library fails.
    """
    job = job_of(backend, bundle)
    runner = backend.runner_for(target_of(job), job.precision)
    if not isinstance(runner, KernelRunner):
        return (
            "Blocks were not run by themselves: nothing stops between the kernels where "
            f"{job.target.name} runs."
        )
    progress("running every block by itself")
    graph, _ = rewritten_for(read_bundled(bundle.compiled_model), job.precision, job.dense_weights)
    given = inputs or inputs_of(read_bundled(bundle.model))
    kernels = manifest_of(bundle).kernels
    return check_blocks(graph, kernels, given, runner, bundle.path)


# The import runs without any optimisation, which takes longer than everything else.
_IMPORT_INPUTS = 2


@dataclass
class LibraryStages:
    """Climbs the stages of a bundle with a library, see `BackendStages`.

    Attributes:
        backend: the backend of the bundle.
        bundle: the bundle.
        ladder: what has run so far.
        progress: told what is being done.
        place: the device that runs the bundle; None to find what can run it here.
    """

    backend: "LibraryBackend"
    bundle: Bundle
    ladder: Ladder
    progress: Progress
    place: Place | None

    least_cosine = None

    def __post_init__(self) -> None:
        self.job = job_of(self.backend, self.bundle)

    @property
    def tuned(self) -> bool:
        """Whether knobs of the bundle's kernels were measured."""
        return isinstance(self.job.choices, Recorded) and bool(self.job.choices.knobs)

    def references(self, quantized: onnx.ModelProto) -> list[list[ReferenceOutput]]:
        return list(run_reference(quantized, self.ladder.inputs))

    def climb(self, model: onnx.ModelProto) -> None:
        if self.job.dense_weights:
            model = self._stored(model, self.job.dense_weights)
        self._import(model)
        self._target(model)

    def blame(self, given: onnx.ModelProto) -> None:
        kernels = manifest_of(self.bundle).kernels
        blame_library(self.ladder, self.bundle, kernels, given, self.progress)

    def _stored(self, model: onnx.ModelProto, stored: str) -> onnx.ModelProto:
        """Round the weights of dense layers; what comes is held to that."""
        self.progress("running onnxruntime on the model with the weights that are stored")
        begun = time.monotonic()
        rounded = narrowed(model, stored)
        references = list(run_reference(rounded, self.ladder.inputs))
        stage = StoreStage(name=f"dense weights in {stored}")
        self.ladder.hold_to(stage, rounded, references, time.monotonic() - begun)
        return rounded

    def _import(self, model: onnx.ModelProto) -> None:
        self.progress("importing to Relax, and running TVM's operators as they are")
        begun = time.monotonic()
        precision = INT8 if self.job.precision.quantized else FP32
        stage = ImportStage(precision=precision.name)
        with scratch_folder("import") as folder:
            imported = stage.make(model, folder)
            outputs = imported.run(self.ladder.inputs[:_IMPORT_INPUTS])
        self.ladder.add(stage, model, outputs, time.monotonic() - begun)

    def _target(self, model: onnx.ModelProto) -> None:
        begun = time.monotonic()
        reference = Reference(model, self.ladder.inputs)
        with self.backend.open(self.bundle, self.progress, place=self.place) as opened:
            runner = opened.runner
            self.progress(f"running the library on {opened.ran_on}")
            outputs = opened.runner.run(opened.folder, reference.inputs)
            again = lowered_again(self.backend, self.bundle)
            entry = entry_for(self.bundle.path, reference.inputs[0])
            missed = constants_of(self.bundle, again, entry).missed
            with suppress(NoStopsError):  # the ladder says what breaks, and not what is proven
                missed += kernels_alone(again.graph, reference, opened, self.progress).missed
        seconds = time.monotonic() - begun
        name = "tuned, on the target" if self.tuned else "scheduled, on the target"
        stage = LibraryStage(
            name, self.job.precision.name, self._builder(runner), runner, opened.ran_on
        )
        stage = replace(stage, script=self.backend.script)
        if not isinstance(runner, HostRunner) and self.backend.script == "library":
            stage = replace(stage, arch=target_of(self.job).arch)
        rung = self.ladder.add(stage, model, outputs, seconds, missed)
        self.ladder.plain_seconds = self.ladder.rungs[0].row.seconds + seconds
        apart = self._apart(runner)
        if rung.row.verdict != BREAKS:
            for name in apart:
                self._skip(name, "built only if the target breaks, which runs the same kernels")
            return
        self.ladder.rungs.pop()
        for name, (build, choices) in apart.items():
            self._built_here(name, model, build, choices)
        self.ladder.add(stage, model, outputs, seconds, missed)

    def _apart(self, runner: Runner) -> dict[str, tuple[Builder, Choices]]:
        """Return what tells schedules, their tuning and the device apart, and can run here."""
        if not self.tuned:
            self._skip("tuned", "no kernel of the bundle is tuned")
        own = isinstance(runner, HostRunner)
        build = self.backend.builder_here(self.job, own=own)
        if isinstance(build, str):
            self._skip("schedules on this machine", build)
            return {}
        stages: dict[str, tuple[Builder, Choices]] = {}
        if self.tuned or not own:
            stages["default schedules, on this machine"] = (build, NO_CHOICES)
        if self.tuned and not own:  # the bundle's library is the last of them
            stages["tuned schedules, on this machine"] = (build, self.job.choices)
        return stages

    def _built_here(
        self, name: str, model: onnx.ModelProto, build_here: Builder, choices: Choices
    ) -> None:
        self.progress(f"building and running {name}")
        begun, runner = time.monotonic(), HostRunner()

        def build(part: onnx.ModelProto, output: Path) -> tuple[str, ...]:
            job = replace(self._kept(part), choices=choices)
            with without_checks(), compiled_anew():
                return covering(build_here(part, job, output))

        stage = LibraryStage(name, self.job.precision.name, build, runner, runner.description)
        with scratch_folder("schedules") as folder:
            outputs: list[list[Array]] = stage.make(model, folder).run(self.ladder.inputs)
        self.ladder.add(stage, model, outputs, time.monotonic() - begun)

    def _builder(self, runner: Runner) -> Callable[[onnx.ModelProto, Path], tuple[str, ...]]:
        """Return what builds a part as the bundle's library was built, for what runs it here.

        It has no checks of arguments, though.
        """
        target = target_of(self.job)
        if self.place is None:
            target = self.backend.part_target(target, on_host=isinstance(runner, HostRunner))

        def build(part: onnx.ModelProto, output: Path) -> tuple[str, ...]:
            job = replace(self._kept(part), target=target)
            with without_checks(), compiled_anew():
                return covering(build_library(self.backend, part, job, output).lowered)

        return build

    def _kept(self, part: onnx.ModelProto) -> Job:
        """Return the job with those patterns of `--keep-float` that match a node of a part."""
        names = [node.name for node in part.graph.node]
        kept = (
            pattern
            for pattern in self.job.keep_float
            if any(fnmatchcase(name, pattern) for name in names)
        )
        return replace(self.job, keep_float=tuple(kept))

    def _skip(self, stage: str, reason: str) -> None:
        self.ladder.skipped.append(Skipped(stage, reason))
