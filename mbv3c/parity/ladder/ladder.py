"""The table that `verify --ladder` prints: what every stage of compiling does to the outputs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.feeds import Feed
from mbv3c.parity.compare import Parity, compare, with_pooled_spread
from mbv3c.parity.ladder.reproduce import Culprit
from mbv3c.parity.ladder.stages import Stage
from mbv3c.parity.metrics import finite
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import TOLERANCES

Outputs = list[list[NDArray[Any]]]

GIVEN, OK, BREAKS, OFF = "reference", "ok", "BREAKS", "off"


@dataclass(frozen=True)
class StageRow:
    """What a stage has shown; of several inputs and outputs the worst.

    Attributes:
        stage: name of the stage.
        ran_on: what executed it.
        max_error_of_range: largest error against the model as given, over its range.
        from_before: largest error against the stage before, over its range.
        allowed: tolerance of both errors.
        cosine: cosine similarity with the model as given.
        top1_agreement: agreement with the model as given; None if no output holds class scores.
        verdict: GIVEN of the model as given, and of a quantized one, to which what follows is
            held; OK; BREAKS where the error against the stage before is too large; OFF where that
            is not so, and that against the reference is.
        finding: what else was seen.
        seconds: time that the stage took.
    """

    stage: str
    ran_on: str
    max_error_of_range: float
    from_before: float
    allowed: float
    cosine: float
    top1_agreement: float | None
    verdict: str
    finding: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.verdict in (GIVEN, OK)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; a value that is not finite becomes null."""
        fields = finite(asdict(self))
        fields["said"] = fields.pop("finding")
        return {**fields, "passed": self.passed}


@dataclass(frozen=True)
class Skipped:
    """A stage that was left out, and why."""

    stage: str
    reason: str


@dataclass(frozen=True)
class Rung:
    """A stage that ran.

    Attributes:
        stage: the stage; None of the model as given.
        model: what entered it.
        outputs: outputs for the inputs, or for the first of them.
        row: how they compare.
        worst: the input and the output by name that are furthest from the stage before.
    """

    stage: Stage | None
    model: onnx.ModelProto
    outputs: Outputs
    row: StageRow
    worst: tuple[int, str] = (0, "")


@dataclass
class Ladder:
    """What has run so far.

    Attributes:
        inputs: inputs of the model.
        references: onnxruntime's outputs of the model that later stages are held to.
        given: onnxruntime's outputs of the model as given.
        rungs: the stages, the model as given first.
        skipped: what was left out.
        culprit: culprit of the first stage that breaks.
        silent: why there is no culprit although a stage breaks; empty if there is one.
        seconds: time that the whole ladder took.
        plain_seconds: the part of `seconds` that a plain `verify` takes, too.
    """

    inputs: list[Feed]
    references: list[list[ReferenceOutput]]
    given: list[list[ReferenceOutput]] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    culprit: Culprit | None = None
    silent: str = ""
    seconds: float = 0.0
    plain_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.given = self.references

    @property
    def rows(self) -> list[StageRow]:
        return [rung.row for rung in self.rungs]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def broken(self) -> Rung | None:
        """The first stage that breaks."""
        return next((rung for rung in self.rungs if not rung.row.passed), None)

    def start(self, model: onnx.ModelProto, seconds: float) -> None:
        """Add the model as given."""
        outputs = [[reference.output for reference in each] for each in self.given]
        top1 = None if all(reference.class_axis is None for reference in self.given[0]) else 1.0
        row = StageRow(
            "model as given", "onnxruntime", 0.0, 0.0, 0.0, 1.0, top1, GIVEN, "", seconds
        )
        self.rungs.append(Rung(None, model, outputs, row))

    def add(
        self,
        stage: Stage,
        model: onnx.ModelProto,
        outputs: Outputs,
        seconds: float,
        findings: Sequence[str] = (),
        first: str = "",
    ) -> Rung:
        """Compare what a stage gives and add it.

        `findings` is what else is wrong with it. `first` is the tolerance against the model that
        it is held to, where that is another than the stage's own.
        """
        precision = first or stage.precision
        held = [
            [replace(one, doubt=one.doubt and one.doubt.as_given) for one in outputs]
            for outputs in with_pooled_spread(self.references, TOLERANCES[precision])
        ]
        before = [
            [replace(reference, output=y) for reference, y in zip(theirs, ys, strict=True)]
            for theirs, ys in zip(held, self.rungs[-1].outputs, strict=False)
        ]
        steps = _compared(outputs, before, stage.precision)
        firsts = _compared(outputs, held, precision)
        shown = _compared(outputs, self.given, precision)
        near = steps.worst
        top1 = [entry.top1_agreement for entry in shown.inputs if entry.top1_agreement is not None]
        breaks = bool(findings) or near.max_error_of_range > near.allowed
        verdict = BREAKS if breaks else OK if firsts.passed else OFF
        row = StageRow(
            stage.name,
            stage.ran_on,
            max(entry.max_error_of_range for entry in shown.inputs),
            near.max_error_of_range,
            firsts.worst.allowed,
            min(entry.cosine for entry in shown.inputs),
            float(np.mean(top1)) if top1 else None,
            verdict,
            "; ".join(findings),
            seconds,
        )
        worst = (steps.inputs.index(near), near.worst_output)
        self.rungs.append(Rung(stage, model, outputs, row, worst))
        return self.rungs[-1]

    def hold_to(
        self,
        stage: Stage,
        model: onnx.ModelProto,
        references: list[list[ReferenceOutput]],
        seconds: float,
        least_cosine: float | None = None,
    ) -> None:
        """Add a quantized model, judged by its cosine if at all; what comes is held to it."""
        outputs = [[reference.output for reference in each] for each in references]
        rung = self.add(stage, model, outputs, seconds)
        verdict, reason = GIVEN, ""
        if least_cosine is not None:
            verdict = OK if rung.row.cosine >= least_cosine else BREAKS
            reason = "" if verdict == OK else f"the cosine must be {least_cosine} at least"
        row = replace(rung.row, verdict=verdict, finding=reason, allowed=float("nan"))
        self.rungs[-1] = replace(rung, row=row)
        self.references = references

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "passed": self.passed,
            "stages": [row.to_json() for row in self.rows],
            "skipped": [asdict(stage) for stage in self.skipped],
            "culprit": self.culprit and self.culprit.to_json(),
            "no_culprit": self.silent or None,
            "seconds": self.seconds,
            "plain_verify_seconds": self.plain_seconds,
        }


def _compared(
    outputs: Outputs, references: Sequence[Sequence[ReferenceOutput]], precision: str
) -> Parity:
    """Compare on the inputs that both sides have seen; spreads are pooled already."""
    count = min(len(outputs), len(references))
    tolerance = replace(TOLERANCES[precision], pooled=False)
    return compare(outputs[:count], references[:count], tolerance, ran_on="", exact_program=True)
