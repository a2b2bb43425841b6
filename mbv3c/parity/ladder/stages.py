"""The stages of compiling, each as something that takes a model or any part of one and runs it.

The ladder gives a stage the whole model, the bisection gives it a part; both use this code.

Bisection finds the smallest part of a model that a broken stage gets wrong. The model is cut where
its blocks meet, and each part goes through that stage alone: halves, the half that fails, and so
on. What is left is then cut shorter from its end and from its start as long as it fails. No tensor
within a part becomes an output, because that would change what is fused, and hide what is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import onnx
import tvm
from tvm import relax

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError, UsageError
from mbv3c.execution.host import arrays, tensors
from mbv3c.execution.runners import Runner
from mbv3c.feeds import Array, Feed, as_feed
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.onnx_import import RELAX_PASSES, import_onnx
from mbv3c.lowering.qdq import with_stored_values
from mbv3c.lowering.unchecked import without_checks
from mbv3c.parity.compare import compare
from mbv3c.parity.ladder.parts import ModelPart, Parts
from mbv3c.parity.reference import ReferenceOutput, run, run_reference, session, tensors_of
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.passes import Pass
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder

Inputs = Sequence[Feed]

BEFORE, AFTER, INPUT = "before.onnx", "after.onnx", "input.npy"


@dataclass(frozen=True)
class StageResult:
    """What a stage has made of a model.

    Attributes:
        run: function that runs inputs and gives all outputs of each.
        kernels: the kernels of a library that compute something, each with the ONNX nodes that
            it covers; none of other stages.
        wanted: function that gives what it should compute; None if that is what onnxruntime does.
    """

    run: Callable[[Inputs], list[list[Array]]]
    kernels: tuple[str, ...] = ()
    wanted: Callable[[Inputs], list[list[Array]]] | None = None


class Stage(Protocol):
    """A stage of compiling."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def ran_on(self) -> str:
        """What executes what it makes."""

    @property
    def precision(self) -> str:
        """The row of `TOLERANCES` that holds for what it changes."""

    @property
    def script(self) -> str:
        """The row of `reproduce.SCRIPTS` that shows a fault of this stage; empty if none does."""

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        """Put a model, or a part of one, through the stage.

        `folder` takes the files that the result needs, which are those of a reproduction, too.

        Raises:
            Mbv3cError: the stage cannot take this model.
        """


@dataclass(frozen=True)
class RewriteStage:
    """One pass over the graph, in onnxruntime without graph optimisations."""

    one_pass: Pass
    name: str
    ran_on: str = "onnxruntime"
    precision: str = "fp32"
    script: str = "rewrite"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        rewritten, _ = self.one_pass(model)
        onnx.save(rewritten, folder / AFTER)
        opened = session(rewritten)
        return StageResult(lambda inputs: [run(opened, x) for x in inputs])


@dataclass(frozen=True)
class QuantizeStage:
    """Quantization, which is judged by how near it comes and is not made part by part."""

    name: str = "quantized"
    ran_on: str = "onnxruntime"
    precision: str = "int8"
    script: str = ""

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        raise UsageError("a part of a model is not quantized by itself; `mbv3c quantize` measures")


@dataclass(frozen=True)
class StoreStage:
    """Dense weights in another type, which are not rounded part by part."""

    name: str
    ran_on: str = "onnxruntime"
    precision: str = "fp32"
    script: str = ""

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        raise UsageError("weights are not rounded part by part; `mbv3c verify` says what it costs")


# TVM's own way from its importer to TensorIR, fused and not scheduled. Constants stay as they are:
# folding them takes longer than all the rest.
_UNSCHEDULED = [tvm_pass for tvm_pass in RELAX_PASSES if tvm_pass.info.name != "FoldConstant"]


@dataclass(frozen=True)
class ImportStage:
    """The import to Relax, computed by TVM's own operators without any schedule."""

    name: str = "import to Relax"
    ran_on: str = "this machine, TVM's operators as they are"
    precision: str = "fp32"
    script: str = "import"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        # LLVM does not optimise it either: it compiles sooner, and few inputs run.
        target = tvm.target.Target({"kind": "llvm", "num-cores": 1, "opt-level": 0})
        with target:
            module = tvm.transform.Sequential(_UNSCHEDULED)(import_onnx(with_stored_values(model)))
        with without_checks():
            return in_process(tvm.compile(module, target=target))


@dataclass(frozen=True)
class LibraryStage:
    """Our kernels in a library.

    Attributes:
        build: function that writes the library of a model and returns its kernels, as
            `StageResult` has them.
        runner: what runs that library.
        ran_on: description of the runner; for a bundle, what executed the bundle's library.
        arch: the machine on which alone the library runs, as `uname -m` prints it; empty if it is
            this one.
    """

    name: str
    precision: str
    build: Callable[[onnx.ModelProto, Path], tuple[str, ...]]
    runner: Runner
    ran_on: str
    script: str = "library"
    arch: str = ""

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        kernels = self.build(model, folder / LIBRARY)
        return StageResult(lambda inputs: self.runner.run(folder, list(inputs)), kernels)


def in_process(executable: Any) -> StageResult:
    """Return what runs a compiled program in this process."""
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return StageResult(lambda inputs: [arrays(main(*tensors(x))) for x in inputs])


def covering(lowered: Lowered) -> tuple[str, ...]:
    """Name the kernels of a network that cover nodes of the graph, with these nodes."""
    return tuple(
        f"{kernel} ({', '.join(step.nodes)})"
        for kernel, step in zip(lowered.kernels, lowered.plan.steps, strict=True)
        if step.nodes
    )


@dataclass(frozen=True)
class Shown:
    """What a part has shown by itself.

    Attributes:
        part: the part.
        x: input of the part, as the model's reference computes it.
        max_error_of_range: largest error of the stage's output over the range of the wanted one.
        allowed: the tolerance.
        kernels: kernels of a library, with the nodes that they cover.
    """

    part: ModelPart
    x: Feed
    max_error_of_range: float
    allowed: float
    kernels: tuple[str, ...]

    @property
    def failed(self) -> bool:
        return not self.max_error_of_range <= self.allowed


def check_part(stage: Stage, part: ModelPart, x: Feed, folder: Path) -> Shown:
    """Put a part through a stage and compare it with onnxruntime, or what the stage says.

    `folder` takes the files that the stage makes.

    Raises:
        Mbv3cError: the stage cannot take this part.
    """
    made = stage.make(part.model, folder)
    references = list(run_reference(part.model, [x]))
    if made.wanted is not None:
        references = [
            [ReferenceOutput(ref.name, y, 0.0, None) for ref, y in zip(theirs, ours, strict=True)]
            for theirs, ours in zip(references, made.wanted([x]), strict=True)
        ]
    tolerance = TOLERANCES[stage.precision]
    (row,) = compare(
        made.run([x]), references, tolerance, ran_on=stage.ran_on, exact_program=True
    ).inputs
    return Shown(part, x, row.max_error_of_range, row.allowed, made.kernels)


@dataclass
class Bisection:
    """The search in one model.

    Attributes:
        stage: which breaks.
        model: what enters it.
        x: an input on which it breaks.
        progress: is told what is tried.
        tried: how many parts were.
    """

    stage: Stage
    model: onnx.ModelProto
    x: Feed
    progress: Progress
    tried: int = 0
    _known: dict[str, Array] = field(default_factory=dict)

    def smallest(self, output: str) -> Shown | None:
        """Return the smallest part found that fails; None if `output` by itself does not."""
        parts = Parts(self.model)
        ends = [*parts.bottlenecks(), (output, output)]
        shown = self._check(parts, parts.input, output)
        if shown is None:
            return None
        low, high = 0, len(ends) - 1
        while high - low > 1:
            middle = (low + high) // 2
            for first, last in ((low, middle), (middle, high)):
                half = self._check(parts, ends[first][0], ends[last][1])
                if half is not None:
                    shown, low, high = half, first, last
                    break
            else:
                break  # only both together fail
        return self._shorter(parts, shown)

    def _shorter(self, parts: Parts, shown: Shown) -> Shown:
        """Cut a part that fails shorter, first from its end, then from its start."""
        part = shown.part
        ended = (self._check(parts, part.entry, exit_) for exit_ in _exits(parts, part))
        shown = next(filter(None, ended), shown)
        later = shown.part
        started = (self._check(parts, entry, later.exit) for entry in _entries(parts, later))
        return next(filter(None, started), shown)

    def _fed(self, part: ModelPart) -> Feed:
        return as_feed([self._known[name] for name in part.entries])

    def _check(self, parts: Parts, entry: str, exit_: str) -> Shown | None:
        """Check one part; None if it does not fail.

        So is one that does not exist, or that the stage cannot take alone.
        """
        part = parts.part(entry, exit_)
        if part is None or not part.nodes:
            return None
        self.tried += 1
        names = part.nodes
        self.progress(f"part {self.tried}: {names[0]} to {names[-1]}, {part.size} nodes")
        entries = part.entries
        if not self._known.keys() >= set(entries):
            self._known |= tensors_of(self.model, self.x, entries)
        with scratch_folder("part") as folder:
            try:
                shown = check_part(self.stage, part, self._fed(part), folder)
            except Mbv3cError as error:
                self.progress(f"part {self.tried} by itself says nothing: {error}")
                return None
        return shown if shown.failed else None


def _exits(parts: Parts, part: ModelPart) -> list[str]:
    """Return where a part may end earlier, the earliest first."""
    made = {name for node in part.model.graph.node for name in node.output} - {part.exit}
    return [name for name in parts.tensors if name in made and not parts.is_quantized(name)]


def _entries(parts: Parts, part: ModelPart) -> Iterator[str]:
    """Yield where a part may start later, the latest first."""
    for name in reversed(_exits(parts, part)):
        if (entry := parts.unquantized(name)) != part.entry:
            yield entry
