"""Run a pass and keep only what is proved."""

from dataclasses import replace

import onnx

from mbv3c.passes import Pass
from mbv3c.passes.report import FAILED_PROOF, Change, PassReport, Proof, Prover, Refusal
from mbv3c.passes.rewrite import Rewrite


def run_proved(
    one_pass: Pass, model: onnx.ModelProto, prover: Prover
) -> tuple[onnx.ModelProto, PassReport]:
    """Run a pass and keep only the changes that the prover finds sound.

    A `Rewrite` is proved match by match. Any other pass is proved on the whole graph, and kept or
    rolled back as a whole.
    """
    if isinstance(one_pass, Rewrite):
        return one_pass(model, prover)
    rewritten, report = one_pass(model)
    if not report.changed:
        return model, report
    verdict = prover(Change(model, rewritten, whole_graph=True))
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
