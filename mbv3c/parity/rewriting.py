"""Run every pass and measure the graph after each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import onnx

from mbv3c.errors import ModelError, ParityError
from mbv3c.feeds import Array, Feed
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.metrics import finite
from mbv3c.parity.proof import prove
from mbv3c.parity.reference import (
    ReferenceOutput,
    error_of_range,
    run,
    run_reference,
    session,
)
from mbv3c.parity.tolerance import TOLERANCES, Tolerance
from mbv3c.parity.verdict import InputParity
from mbv3c.passes import COMPILING, PIPELINE, Proof, applied
from mbv3c.passes.convert_opset import check_opset, convert_opset
from mbv3c.passes.proving import run_proved
from mbv3c.passes.report import PassReport
from mbv3c.steps import step


def in_opset(model: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, PassReport]:
    """Convert a model, and always prove the conversion: its file is what somebody asks for.

    Raises:
        UsageError: mbv3c does not write this operator set.
        ModelError: the model cannot be written in it, or would compute something else there.
    """
    converted, report = run_proved(partial(convert_opset, opset=opset), model, prove)
    if not all(proof.verdict.passed for proof in report.proofs):
        raise ModelError(
            f"the model, converted to opset {opset}, computes something else: "
            f"{report.proofs[0].verdict.reason}; choose another --opset"
        )
    return converted, report


@dataclass(frozen=True)
class OptimizedStep:
    """One pass of `optimize`.

    Attributes:
        report: report of the pass.
        max_error_of_range: largest error of the graph after the pass against the model as given,
            on one random input, as a fraction of the output's range; the worst of all outputs.
    """

    report: PassReport
    max_error_of_range: float

    @property
    def failed(self) -> list[Proof]:
        """The rewrites that failed their proof, and were not made."""
        return [proof for proof in self.report.proofs if not proof.verdict.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; an error that is not finite becomes null."""
        report = self.report
        return {
            "name": report.name,
            "matched": list(report.matched),
            "refused": [asdict(refusal) for refusal in report.refused],
            "nodes_before": report.nodes_before,
            "nodes_after": report.nodes_after,
            "max_error_of_range": finite(self.max_error_of_range),
            "proofs": [
                {
                    "node": proof.node,
                    "passed": proof.verdict.passed,
                    "max_error_of_range": finite(proof.verdict.max_error_of_range),
                    "allowed": proof.verdict.allowed,
                    "reason": proof.verdict.reason or None,
                }
                for proof in report.proofs
            ],
        }


def optimize(
    model: onnx.ModelProto, *, proving: bool = False, opset: int | None = None
) -> tuple[onnx.ModelProto, list[OptimizedStep]]:
    """Run every pass and measure the graph after each.

    With `proving`, every single rewrite is checked against onnxruntime before it is made; one that
    fails is not made, and its pass reports it as refused. With `opset`, the result is converted to
    that operator set, as the last step.

    Raises:
        ParityError: the result does not compute what the model computes.
    """
    if opset is not None:
        check_opset(opset)
    given, inputs = model, inputs_of(model)
    references = list(run_reference(given, inputs))
    x, wanted = inputs[0], [reference.output for reference in references[0]]
    steps: list[OptimizedStep] = []
    error = 0.0
    for rewrite in PIPELINE:
        with step("rewriting the graph", "onnx", None if proving else model.ByteSize):
            if proving:
                model, report = run_proved(rewrite, model, prove)
            else:
                model, report = applied(rewrite, model)
        if report.changed:
            error = _largest_error(run(session(model), x), wanted)
        steps.append(OptimizedStep(report, error))
    if opset is not None:
        model, report = in_opset(model, opset)
        error = _largest_error(run(session(model), x), wanted)
        steps.append(OptimizedStep(report if proving else replace(report, proofs=()), error))
    check_rewritten(given, model, inputs, references)
    return model, steps


def check_rewritten(
    given: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    inputs: Sequence[Feed],
    references: Sequence[Sequence[ReferenceOutput]],
) -> None:
    """Make sure that what the passes made of a model computes what the model computes.

    Args:
        given: the model.
        rewritten: what `PIPELINE` or `COMPILING` made of it.
        inputs: the inputs of the comparison.
        references: what the model gives for them.

    Raises:
        ParityError: it does not; the message names the first pass after which it does not.
    """
    missed = _missed(rewritten, inputs, references)
    if missed is None:
        return
    culprit, model = "a conversion", given
    for rewrite in COMPILING:
        model, report = rewrite(model)
        if report.changed and _missed(model, inputs, references) is not None:
            culprit = f"the pass {report.name} ({', '.join(report.matched[:3])})"
            break
    worst, verdict = missed
    raise ParityError(
        f"{culprit} changes what the model computes: max error {worst.max_error_of_range:.1e} of "
        f"range in {worst.worst_output} (allowed {worst.allowed:.1e}); nothing was written. This "
        "is a fault of mbv3c; `mbv3c optimize --prove` leaves out the rewrites that fail",
        verdict.to_json(),
    )


# Rewriting rounds stored numbers once more, such as weights with a scale folded into them. What
# float64 says of a network's sums does not have that; it is as much again at most. Of PP-OCR's
# detector v3 the error is 1.03 of what the sums alone allow.
_TIMES_IN_DOUBT = 2.0


def _may_be_right(judged: InputParity) -> bool:
    doubted = judged.ill_conditioned is not None
    times = _TIMES_IN_DOUBT if doubted and judged.top1_agreement in (1.0, None) else 1.0
    within = judged.max_error_of_range <= times * judged.allowed
    return judged.passed or judged.not_judged or (doubted and within)


def _missed(
    model: onnx.ModelProto,
    inputs: Sequence[Feed],
    references: Sequence[Sequence[ReferenceOutput]],
) -> tuple[InputParity, Parity] | None:
    """Return the output that a rewritten model gets most wrong, and the verdict; None for none.

    Where an output of the model as given is no number, nothing says what would be right of it;
    every other output is judged by itself.
    """
    verdict = _judged(model, inputs, references)
    wrong = [judged for judged in _judgements(verdict) if not _may_be_right(judged)]
    return (max(wrong, key=lambda judged: judged.of_allowed), verdict) if wrong else None


def _judgements(verdict: Parity) -> Iterator[InputParity]:
    """Yield the comparison of each output that has numbers, for each input."""
    for pair in chain.from_iterable(verdict.pairs):
        if pair.judged is not None and np.isfinite(pair.reference.output).all():
            yield pair.judged


# Both graphs run in onnxruntime: what it computes badly, it computes alike.
_ALIKE = Tolerance(TOLERANCES["fp32"].of_range, 0.0, TOLERANCES["fp32"].reason)


def _judged(
    model: onnx.ModelProto,
    inputs: Sequence[Feed],
    references: Sequence[Sequence[ReferenceOutput]],
) -> Parity:
    """Compare a graph with the reference, and with float64 only if it gives something else."""
    opened = session(model)
    outputs = [run(opened, x) for x in inputs]
    unnamed = [
        [replace(one, doubt=one.doubt.unnamed if one.doubt else None) for one in row]
        for row in references
    ]
    alike = compare(outputs, unnamed, _ALIKE, ran_on="onnxruntime", exact_program=True)
    if all(judged.passed for judged in _judgements(alike)):
        return alike
    return compare(outputs, unnamed, TOLERANCES["fp32"], ran_on="onnxruntime", exact_program=True)


def _largest_error(outputs: list[Array], wanted: list[Array]) -> float:
    return max(error_of_range(*pair) for pair in zip(outputs, wanted, strict=True))
