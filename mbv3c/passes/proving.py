"""Run a pass under a judge."""

from collections.abc import Callable
from dataclasses import replace

import onnx

from mbv3c.passes.report import FAILED_PROOF, Change, Judge, PassReport, Proof, Refusal
from mbv3c.passes.rewrite import Rewrite


def prove(
    one_pass: Callable[[onnx.ModelProto], tuple[onnx.ModelProto, PassReport]],
    model: onnx.ModelProto,
    judge: Judge,
) -> tuple[onnx.ModelProto, PassReport]:
    """Run a pass and keep of what it does only what the judge finds sound.

    Rewrites are judged match by match. Any other pass is judged as a whole, on the whole graph,
    and kept or rolled back as a whole.
    """
    if isinstance(one_pass, Rewrite):
        return one_pass(model, judge)
    rewritten, report = one_pass(model)
    if not report.changed:
        return model, report
    verdict = judge(Change(model, rewritten, whole=True))
    proofs = (Proof(report.name, verdict),)
    if verdict.passed:
        return rewritten, replace(report, proofs=proofs)
    failed = Refusal(model.graph.name or "graph", f"{FAILED_PROOF}: {verdict.reason}")
    return model, replace(
        report,
        matched=(),
        refused=(*report.refused, failed),
        nodes_after=report.nodes_before,
        changed=False,
        proofs=proofs,
    )
