"""The ladder of a bundle with a library: every stage in turn."""

import tempfile
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import onnx

from mbv3c import bundle as bundles
from mbv3c.execution.device.place import Place
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.host import HostRunner
from mbv3c.execution.runners import Runner
from mbv3c.job import NATIVE, Target, on_this_machine
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.ladder.climb import climb_rewrites
from mbv3c.parity.ladder.culprit import blame_library, explain
from mbv3c.parity.ladder.ladder import BREAKS, Ladder, Rung, Skipped
from mbv3c.parity.ladder.stages import ImportStage, LibraryStage, QuantizeStage, covering
from mbv3c.parity.reference import run_reference
from mbv3c.pipeline import compile_model
from mbv3c.progress import Progress
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.cores import machine
from mbv3c.targets.cpu.lower import lower
from mbv3c.targets.library import build_library, execute, runner_for
from mbv3c.targets.remote import open_device
from mbv3c.targets.table import find_target, target_of
from mbv3c.tuning.choices import recorded

# The import runs without any optimisation, which takes longer than everything else.
_IMPORT_INPUTS = 2


def climb(path: Path, progress: Progress, place: tuple[Place, float] | None = None) -> Ladder:
    """Run every stage that made a bundle, and find what the first that breaks gets wrong.

    `place` says on which device the library runs, as in `verify_bundle`.

    Raises:
        Mbv3cError: the bundle is damaged or cannot be run.
    """
    started = time.monotonic()
    bundle = bundles.read_bundle(path)
    runner = open_device(bundle, *place) if place is not None else None
    climber = _Climber(bundle, progress, runner)
    climber.climb()
    ladder = climber.ladder
    ladder.seconds = time.monotonic() - started
    if ladder.broken is not None:
        explain(ladder, climber.given, progress)
        if ladder.culprit is None:
            blame_library(ladder, bundle, climber.given, progress)
    return ladder


def climb_model(
    model: onnx.ModelProto, target: Target, precision: str, progress: Progress
) -> Ladder:
    """Compile a model for a target and climb what comes of it; nothing is kept.

    Raises:
        Mbv3cError: it cannot be compiled or run.
    """
    with tempfile.TemporaryDirectory(prefix="mbv3c-ladder-") as name:
        path = Path(name) / "bundle"
        compile_model(model, target, path, precision=precision, verify=False, progress=progress)
        return climb(path, progress)


@dataclass
class _Climber:
    """Runs the stages of a bundle in their order."""

    bundle: bundles.Bundle
    progress: Progress
    runner: Runner | None

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        self.target, self.precision = target_of(self.bundle), manifest["precision"]
        self.keep_float: list[str] = manifest.get("keep_float", [])
        self.tuned = recorded(manifest.get("tuned_kernels", []))
        inputs = parity_inputs(self.bundle.input_shape)
        given = self.given = onnx.load(self.bundle.model)
        self.progress("running onnxruntime on the model as given")
        at = time.monotonic()
        self.ladder = Ladder(inputs, list(run_reference(given, inputs)))
        self.ladder.start(given, time.monotonic() - at)
        self.model = given

    def climb(self) -> None:
        quantized = self.bundle.compiled_model != self.bundle.model
        if self.precision != "int8" or quantized:
            self.model = climb_rewrites(self.ladder, self.model, self.progress)
        else:
            self._skip("rewrites", "a model with QDQ pairs is compiled as it is")
        if quantized:
            self._quantized()
        self._import()
        self._target()

    def _quantized(self) -> None:
        self.progress("running onnxruntime on the quantized model")
        at = time.monotonic()
        quantized = onnx.load(self.bundle.compiled_model)
        references = list(run_reference(quantized, self.ladder.inputs))
        self.ladder.hold_to(QuantizeStage(), self.model, references, time.monotonic() - at)
        self.model = quantized

    def _import(self) -> None:
        self.progress("importing to Relax, and running TVM's operators as they are")
        at = time.monotonic()
        stage = ImportStage(precision="int8" if self.precision == "int8" else "fp32")
        with tempfile.TemporaryDirectory(prefix="mbv3c-import-") as name:
            made = stage.make(self.model, Path(name))
            outputs = made.run(self.ladder.inputs[:_IMPORT_INPUTS])
        self.ladder.add(stage, self.model, outputs, time.monotonic() - at)

    def _built_here(self, name: str, choices: Choices) -> Rung:
        self.progress(f"building and running {name}")
        at = time.monotonic()
        stage = LibraryStage(
            name,
            self.precision,
            lambda model, output: self._build_here(model, output, choices),
            HostRunner(),
            HostRunner().description,
        )
        with tempfile.TemporaryDirectory(prefix="mbv3c-schedules-") as folder:
            outputs = stage.make(self.model, Path(folder)).run(self.ladder.inputs)
        return self.ladder.add(stage, self.model, outputs, time.monotonic() - at)

    def _build_here(
        self, model: onnx.ModelProto, output: Path, choices: Choices
    ) -> tuple[str, ...]:
        """Build the kernels that the target's cores get, for this machine."""
        resolved, here = cpu.resolve(self.target), cpu.resolve(find_target("host_cpu"))
        cores = machine(resolved, cpu.tvm_target(resolved))
        if resolved.arch != here.arch:
            # The others are instructions of that processor.
            cores = replace(cores, integers="portable")
        lowered = lower(
            model,
            cores,
            cpu.tvm_target(here),
            self.precision,
            self._kept(model),
            choices,
        )
        cpu.build(lowered.module, here, output)
        return covering(lowered)

    def _target(self) -> None:
        at = time.monotonic()
        kernels = self.bundle.manifest["kernels"]
        ran = execute(
            self.bundle.path,
            kernels,
            self.model,
            self.target,
            self.precision,
            self.ladder.inputs,
            self.progress,
            self.keep_float,
            self.runner,
            self.tuned,
        )
        name = "tuned, on the target" if self.tuned.knobs else "scheduled, on the target"
        runner = self._part_runner()
        stage = LibraryStage(name, self.precision, self._build, runner, ran.ran_on)
        if self.target.gpu:
            stage = replace(stage, script="opencl")
        elif not isinstance(runner, HostRunner):
            stage = replace(stage, arch=self.target.arch)
        missed = ran.alone.missed if ran.alone is not None else []
        seconds = time.monotonic() - at
        rung = self.ladder.add(stage, self.model, ran.outputs, seconds, missed)
        self.ladder.plain_seconds = self.ladder.rungs[0].row.seconds + seconds
        apart = self._apart(runner)
        if rung.row.verdict != BREAKS:
            for name in apart:
                self._skip(name, "built only if the target breaks, which runs the same kernels")
            return
        self.ladder.rungs.pop()
        for name, choices in apart.items():
            self._built_here(name, choices)
        self.ladder.add(stage, self.model, ran.outputs, seconds, missed)

    def _apart(self, runner: Runner) -> dict[str, Choices]:
        """Return what tells schedules, their tuning and the device apart, and can run here."""
        if not self.tuned.knobs:
            self._skip("tuned", "no kernel of the bundle is tuned")
        if self.target.gpu:
            self._skip("schedules on this machine", "kernels of a GPU are run as they are")
            return {}
        own = isinstance(runner, HostRunner)
        if self.precision == "fp16" and not own:
            self._skip("schedules on this machine", "it may not compute in half precision")
            return {}
        default: dict[str, Choices] = {"default schedules, on this machine": NO_CHOICES}
        tuned: dict[str, Choices] = {"tuned schedules, on this machine": self.tuned}
        if own:  # the bundle's library is the last of them
            return default if self.tuned.knobs else {}
        return default | tuned if self.tuned.knobs else default

    def _build(self, model: onnx.ModelProto, output: Path) -> tuple[str, ...]:
        """Build a part as the bundle's library was built, for what runs it here."""
        target = self.target
        if isinstance(self._part_runner(), HostRunner):
            target = target if target.arch in (NATIVE, native_arch()) else find_target("host_cpu")
        elif target.gpu:
            target = on_this_machine(target)
        built = build_library(
            model,
            target,
            output,
            precision=self.precision,
            keep_float=self._kept(model),
            choices=self.tuned,
        )
        return covering(built.lowered)

    def _part_runner(self) -> Runner:
        if self.runner is not None:
            return self.runner
        if self.target.gpu:
            return runner_for(on_this_machine(self.target), self.precision) or HostRunner()
        return runner_for(self.target, self.precision) or HostRunner()

    def _kept(self, model: onnx.ModelProto) -> list[str]:
        """Return the patterns of `--keep-float` that match a node of a part."""
        names = [node.name for node in model.graph.node]
        return [one for one in self.keep_float if any(fnmatchcase(n, one) for n in names)]

    def _skip(self, stage: str, reason: str) -> None:
        self.ladder.skipped.append(Skipped(stage, reason))
