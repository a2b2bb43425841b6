"""The ladder of a bundle for a CPU or a GPU: every stage in turn, then what broke the first."""

import time

import onnx

from mbv3c.parity.ladder.ladder import Ladder, Skipped
from mbv3c.parity.ladder.stages import RewriteStage
from mbv3c.parity.reference import run, session
from mbv3c.passes import PIPELINE
from mbv3c.progress import Progress


def climb_rewrites(ladder: Ladder, model: onnx.ModelProto, progress: Progress) -> onnx.ModelProto:
    """Run every rewrite, add those that change something, and return the graph after them."""
    progress("rewriting the graph, pass by pass")
    unchanged = 0
    for one_pass in PIPELINE:
        at = time.monotonic()
        rewritten, report = one_pass(model)
        if not report.changed:
            unchanged += 1
            continue
        opened = session(rewritten)
        outputs = [run(opened, x) for x in ladder.inputs]
        stage = RewriteStage(one_pass, report.name)
        ladder.add(stage, model, outputs, time.monotonic() - at)
        model = rewritten
    if unchanged:
        ladder.skipped.append(Skipped(f"{unchanged} other rewrites", "they found nothing to do"))
    return model
