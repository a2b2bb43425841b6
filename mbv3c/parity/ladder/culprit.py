"""What the first broken stage of a ladder gets wrong: the smallest part, or a kernel by itself."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from mbv3c.bundle import Bundle
from mbv3c.execution.runners import KernelRunner
from mbv3c.parity.kernels import check_kernels
from mbv3c.parity.ladder.bisect import Bisection, check_part
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import Culprit
from mbv3c.parity.ladder.stages import LibraryStage

Progress = Callable[[str], None]


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
    """Return the nodes of the model as given between two tensors of a later form of it.

    Empty where it does not have these tensors.
    """
    own = Parts(given)
    for last in (exit_, parts.unquantized(exit_)):
        part = own.part(entry, last)
        if part is not None:
            return part.nodes
    return []


def blame_library(
    ladder: Ladder, bundle: Bundle, given: onnx.ModelProto, progress: Progress
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
    if rung is not ladder.broken or stage.precision == "fp16" or len(model.graph.output) > 1:
        return
    progress("running every kernel of the library by itself")
    kernels, x = bundle.manifest["kernels"], ladder.inputs[rung.worst[0]]
    found = check_kernels(model, kernels, x, stage.runner, bundle.path)
    wrong = next((one for one in found.kernels if not one.passed), None)
    if wrong is None:
        return
    calls = [one["nodes"] for one in kernels if one["kernel"] == wrong.kernel]
    covered = dict.fromkeys(name for nodes in calls for name in nodes)

    def copied(part: onnx.ModelProto, output: Path) -> tuple[str, ...]:
        shutil.copyfile(bundle.library, output)
        return (f"{wrong.kernel} ({', '.join(covered)})",)

    own, parts = replace(stage, build=copied), Parts(model)
    whole = parts.part(parts.input, rung.worst[1])
    assert whole is not None
    with tempfile.TemporaryDirectory(prefix="mbv3c-library-") as folder:
        shown = check_part(own, whole, x, Path(folder))
    layers = _layers_behind(given, parts, wrong.nodes)
    ladder.silent = ""
    ladder.culprit = Culprit(own, shown, layers or (wrong.said,), len(found.kernels))


def _layers_behind(given: onnx.ModelProto, parts: Parts, nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes of the model as given behind some of the graph, which follow each other."""
    own = [node for node in parts.model.graph.node if node.name in nodes]
    if not own:
        return tuple(nodes)
    entry = parts.unquantized(own[0].input[0])
    return tuple(layers_of(given, parts, entry, own[-1].output[0]) or nodes)
