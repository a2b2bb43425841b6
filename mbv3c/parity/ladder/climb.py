"""Climb the ladder of a bundle: every stage of compiling in turn, then what broke the first."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import onnx

from mbv3c.bundle import Bundle, read_bundled
from mbv3c.execution.runners import KernelRunner, NoStopsError
from mbv3c.lowering.describe import KernelRecord
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.kernels import check_kernels
from mbv3c.parity.ladder.ladder import Ladder, Skipped
from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import Culprit
from mbv3c.parity.ladder.stages import (
    Bisection,
    LibraryStage,
    QuantizeStage,
    RewriteStage,
    check_part,
)
from mbv3c.parity.reference import ReferenceOutput, run, run_reference, session
from mbv3c.passes import CLEANING, COMPILING, Pass
from mbv3c.precision import FP16
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder


def explain(ladder: Ladder, given: onnx.ModelProto, progress: Progress) -> None:
    """Look for the smallest part that the first broken stage gets wrong."""
    rung = ladder.broken
    assert rung is not None
    if rung.stage is None or not rung.stage.script:
        ladder.silent = f"{rung.row.stage} is not made part by part"
        return
    at, output = rung.worst
    bisection = Bisection(rung.stage, rung.model, ladder.inputs[at], progress)
    progress(f"{rung.row.stage} breaks: looking for the smallest part that it gets wrong")
    shown = bisection.smallest(output)
    if shown is None:
        ladder.silent = (
            f"no part of the model fails in {rung.row.stage} by itself ({bisection.tried} tried): "
            "what was compared is not what this version makes of the same model, or errors add up"
        )
        return
    layers = layers_of(given, Parts(rung.model), shown.part.entry, shown.part.exit)
    ladder.culprit = Culprit(rung.stage, shown, tuple(layers or shown.part.nodes), bisection.tried)


def layers_of(given: onnx.ModelProto, parts: Parts, entry: str, exit_: str) -> list[str]:
    """Return the nodes of the model as given between two tensors of a later form of this model.

    Empty where the model as given does not have these tensors.
    """
    own = Parts(given)
    candidates = (own.part(entry, last) for last in (exit_, parts.unquantized(exit_)))
    return next((part.nodes for part in candidates if part is not None), [])


def blame_library(
    ladder: Ladder,
    bundle: Bundle,
    kernels: Sequence[KernelRecord],
    given: onnx.ModelProto,
    progress: Progress,
) -> None:
    """Run every kernel of a bundle's own library by itself, and name the first wrong one.

    This is for a library that is not what building its parts again gives. Of fp16 the tensors
    between kernels are not onnxruntime's, and of several outputs a script shows none: then there
    is no culprit.
    """
    rung = ladder.rungs[-1]
    stage, model = rung.stage, rung.model
    if not isinstance(stage, LibraryStage) or not isinstance(stage.runner, KernelRunner):
        return
    if rung is not ladder.broken or stage.precision == FP16.name or len(model.graph.output) > 1:
        return
    progress("running every kernel of the library by itself")
    x = ladder.inputs[rung.worst[0]]
    try:
        parity = check_kernels(model, kernels, x, stage.runner, bundle.path)
    except NoStopsError:
        return
    wrong = next((kernel for kernel in parity.kernels if not kernel.passed), None)
    if wrong is None:
        return
    calls = [call.nodes for call in kernels if call.kernel == wrong.kernel]
    covered = dict.fromkeys(name for nodes in calls for name in nodes)

    def copied(part: onnx.ModelProto, output: Path) -> tuple[str, ...]:
        shutil.copyfile(bundle.library, output)
        return (f"{wrong.kernel} ({', '.join(covered)})",)

    own, parts = replace(stage, build=copied), Parts(model)
    whole_part = parts.part(parts.input, rung.worst[1])
    assert whole_part is not None
    with scratch_folder("library") as folder:
        shown = check_part(own, whole_part, x, folder)
    layers = _layers_behind(given, parts, wrong.nodes)
    ladder.silent = ""
    ladder.culprit = Culprit(own, shown, layers or (wrong.finding,), len(parity.kernels))


def _layers_behind(given: onnx.ModelProto, parts: Parts, nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes of the model as given behind some of the graph, which follow each other."""
    own = [node for node in parts.model.graph.node if node.name in nodes]
    if not own:
        return tuple(nodes)
    entry = parts.unquantized(own[0].input[0])
    return tuple(layers_of(given, parts, entry, own[-1].output[0]) or nodes)


class BackendStages(Protocol):
    """The stages of compiling that are a backend's own."""

    @property
    def least_cosine(self) -> float | None:
        """The least cosine of a quantized model to the model as given; None if not judged."""

    def references(self, quantized: onnx.ModelProto) -> list[list[ReferenceOutput]]:
        """Return what onnxruntime computes with a quantized model, to which the rest is held."""

    def climb(self, model: onnx.ModelProto) -> None:
        """Add every stage that follows the rewrites to the ladder; `model` enters the first."""

    def blame(self, given: onnx.ModelProto) -> None:
        """Look for the culprit in the bundle's own files, where no part of the model fails."""


def climb(
    bundle: Bundle,
    stages_of: Callable[[Ladder], BackendStages],
    progress: Progress,
    most_inputs: int | None = None,
) -> Ladder:
    """Run every stage that made a bundle, and find what the first that breaks gets wrong.

    Args:
        bundle: the bundle.
        stages_of: function that gives the stages of the backend, which climb a ladder.
        progress: function that is told what is being done.
        most_inputs: the largest number of inputs; None for those of a parity check.

    Raises:
        Mbv3cError: the bundle cannot be run, or a tool fails.
    """
    started = time.monotonic()
    model = given = read_bundled(bundle.model)
    inputs = inputs_of(given)[:most_inputs]
    progress("running onnxruntime on the model as given")
    ladder = Ladder(inputs, list(run_reference(given, inputs)))
    ladder.start(given, time.monotonic() - started)
    stages = stages_of(ladder)
    given_quantized = bundle.precision.quantized and bundle.quantized is None
    model = climb_rewrites(ladder, model, CLEANING if given_quantized else COMPILING, progress)
    if bundle.quantized is not None:
        progress("running onnxruntime on the quantized model")
        begun = time.monotonic()
        quantized = read_bundled(bundle.quantized)
        references = stages.references(quantized)
        seconds = time.monotonic() - begun
        ladder.hold_to(QuantizeStage(), model, references, seconds, stages.least_cosine)
        model = quantized
    stages.climb(model)
    ladder.seconds = time.monotonic() - started
    if ladder.broken is not None:
        explain(ladder, given, progress)
        if ladder.culprit is None:
            stages.blame(given)
    return ladder


def climb_rewrites(
    ladder: Ladder, model: onnx.ModelProto, passes: Sequence[Pass], progress: Progress
) -> onnx.ModelProto:
    """Run every rewrite, add those that change something, and return the graph after them."""
    progress("rewriting the graph, pass by pass")
    unchanged = 0
    for rewrite in passes:
        begun = time.monotonic()
        rewritten, report = rewrite(model)
        if not report.changed:
            unchanged += 1
            continue
        opened = session(rewritten)
        outputs = [run(opened, x) for x in ladder.inputs]
        stage = RewriteStage(rewrite, report.name)
        ladder.add(stage, model, outputs, time.monotonic() - begun)
        model = rewritten
    if unchanged:
        ladder.skipped.append(Skipped(f"{unchanged} other rewrites", "they found nothing to do"))
    return model
