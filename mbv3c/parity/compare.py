"""Compare outputs with the reference and give a verdict."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.feeds import Array
from mbv3c.parity.constants import ConstantsParity
from mbv3c.parity.inputs import USUAL_INPUTS
from mbv3c.parity.kernel_verdict import KernelsParity
from mbv3c.parity.labels import Answers
from mbv3c.parity.metrics import cosine, finite, top_agreement
from mbv3c.parity.reference import ReferenceOutput, error_of_range
from mbv3c.parity.tolerance import LEAST_COSINE, Tolerance
from mbv3c.parity.verdict import Check, InputParity, Pair, Pairs, sentence


@dataclass(frozen=True)
class Agreement:
    """How near outputs come to those of another model: the fp32 one of a quantized one.

    Attributes:
        cosine: the least over inputs and outputs.
        top1, top5: the means of what `InputParity` calls agreement.
        too_far: what shows that this is another network, one sentence each.
        unjudged: outputs that hardly answer to these inputs, so that they show nothing.
    """

    cosine: float
    top1: float | None
    top5: float | None
    too_far: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parity:
    """The verdict over all inputs.

    Attributes:
        ran_on: what executed the library.
        exact_program: whether that was the library itself, and not the model built for another
            machine.
        inputs: one comparison per input.
        as_given: how near a quantized model comes to the model as given.
        kernels: what the kernels have shown by themselves.
        constants: what the constants in the library have shown.
        not_checked: why no kernel ran by itself; empty if they did.
        proven: whether the outputs alone prove a library right whose kernels were not checked.
        pairs: what was compared.
        standing: the tolerance of the outputs.
    """

    ran_on: str
    exact_program: bool
    inputs: tuple[InputParity, ...]
    as_given: Agreement | None = None
    kernels: KernelsParity | None = None
    constants: ConstantsParity | None = None
    not_checked: str = ""
    proven: bool = True
    pairs: Pairs = field(default=(), repr=False, compare=False)
    standing: Tolerance | None = field(default=None, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        return not self.missed and all(row.passed for row in self.inputs)

    @property
    def missed(self) -> list[str]:
        """What is wrong in the library by itself, and what is too far from the given model."""
        alone = [part.missed for part in (self.constants, self.kernels) if part is not None]
        far = self.as_given.too_far if self.as_given is not None else ()
        return [*chain(*alone), *far, *self._unproven]

    @property
    def _unproven(self) -> list[str]:
        """What was not checked and is needed for a verdict: the outputs of int8 allow too much."""
        if self.proven or not self.not_checked:
            return []
        return [f"the kernels were not checked by themselves: {self.not_checked}"]

    @property
    def worst(self) -> InputParity:
        """The input that comes closest to its limit, or is furthest beyond it."""
        return max(self.inputs, key=lambda row: row.of_allowed)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; a value that is not finite becomes null."""
        summary = {
            "passed": self.passed,
            "ran_on": self.ran_on,
            "exact_program": self.exact_program,
            "worst_output": self.worst.worst_output,
            "max_error_of_range": self.worst.max_error_of_range,
            "labels": self.worst.labels,
            "tolerance": self.worst.allowed,
            "reference_spread": self.worst.reference_spread,
            "cosine": min(row.cosine for row in self.inputs),
            "top1_agreement": _mean(row.top1_agreement for row in self.inputs),
            "top5_agreement": _mean(row.top5_agreement for row in self.inputs),
        }
        rows = [{**asdict(row), "passed": row.passed} for row in self.inputs]
        document: dict[str, Any] = finite({**summary, "inputs": rows})
        if self.as_given is not None:
            document["against_model_as_given"] = finite(asdict(self.as_given))
        if self.kernels is not None:
            document["kernels_alone"] = self.kernels.to_json()
        if self.constants is not None:
            document["constants"] = self.constants.to_json()
        document["not_checked"] = self.not_checked or None
        document["unproven"] = bool(self._unproven) and self.missed == self._unproven
        return document

    def checks(self) -> list[Check]:
        """Return what was judged: every output, every kernel by itself, and the constants."""
        kernels = self.kernels.kernels if self.kernels is not None else ()
        return [
            *(_check(pair, index) for index, outputs in enumerate(self.pairs) for pair in outputs),
            *(
                Check("parity", "near the model as given", False, reason)
                for reason in (self.as_given.too_far if self.as_given is not None else ())
            ),
            *(
                Check(
                    "kernels",
                    f"{index} {kernel.kernel} makes {kernel.tensor}",
                    kernel.passed,
                    kernel.finding,
                )
                for index, kernel in enumerate(kernels)
            ),
            *(Check("kernels", "each by itself", False, text) for text in self._unproven),
            *(
                Check("constants", "all of the library", part.passed, part.finding)
                for part in (self.constants,)
                if part is not None
            ),
        ]

    def errors(self) -> list[dict[str, Any]]:
        """Return the error of every output as a fraction of its range."""
        return [
            {
                "name": f"{pair.reference.name}, input {index}",
                "error": finite(judged.max_error_of_range),
                "allowed": judged.allowed,
            }
            for index, outputs in enumerate(self.pairs)
            for pair in outputs
            if (judged := pair.judged) is not None
        ]

    def lines(self) -> list[str]:
        """Return the verdict in words."""
        return [f"parity: {sentence(self.to_json())}"]


def _check(pair: Pair, index: int) -> Check:
    judged = pair.judged
    assert judged is not None
    top1 = judged.top1_agreement
    agreement = "" if top1 is None else f", top-1 agreement {top1:.0%}"
    return Check(
        "parity",
        f"{pair.reference.name}, input {index}",
        judged.passed,
        f"max error {judged.max_error_of_range:.1e} of range (allowed {judged.allowed:.1e})"
        f"{agreement}",
    )


def compare(
    outputs: Sequence[Sequence[Array]],
    references: Sequence[Sequence[ReferenceOutput]],
    tolerance: Tolerance,
    *,
    ran_on: str,
    exact_program: bool,
) -> Parity:
    """Compare the outputs for each input with the reference's."""
    references = with_pooled_spread(references, tolerance)
    pairs = tuple(
        tuple(
            Pair(y, reference, _compare_one(y, reference, tolerance))
            for y, reference in zip(ours, theirs, strict=True)
        )
        for ours, theirs in zip(outputs, references, strict=True)
    )
    rows = tuple(_worst([pair.judged for pair in row if pair.judged]) for row in pairs)
    return Parity(ran_on, exact_program, rows, pairs=pairs, standing=tolerance)


def with_pooled_spread(
    references: Sequence[Sequence[ReferenceOutput]], tolerance: Tolerance
) -> list[list[ReferenceOutput]]:
    """Give every output the largest spread over all inputs, if the tolerance says so."""
    if not tolerance.pooled:
        return [list(outputs) for outputs in references]
    largest = [max(each.spread for each in outputs) for outputs in zip(*references, strict=True)]
    return [
        [replace(ref, spread=spread) for ref, spread in zip(outputs, largest, strict=True)]
        for outputs in references
    ]


def agreement(
    outputs: Sequence[Sequence[Array]],
    references: Sequence[Sequence[ReferenceOutput]],
    usual: int = USUAL_INPUTS,
    calibrated: Sequence[float] = (),
) -> Agreement:
    """Say how near the outputs for each input come to those of another model.

    `usual` is how many of the inputs, from the first on, are in the usual range. `calibrated` has
    the range that every output took when it was quantized, 0 where that is not known.
    """
    least, top1, top5 = 1.0, [], []
    for ours, theirs in zip(outputs, references, strict=True):
        for y, reference in zip(ours, theirs, strict=True):
            if reference.answers is not None and not reference.answers.ordered:
                top1.append(_share_equal(y, reference.output))
                continue
            least = min(least, cosine(y, reference.output))
            if reference.class_axis is not None:
                top1.append(_top1_agreement(y, reference, 0.0))
                top5.append(top_agreement(y, reference.output, reference.class_axis, 5))
    silent = _unjudged(references[:usual], calibrated)
    too_far = tuple(_too_far(outputs[:usual], references[:usual], silent))
    return Agreement(least, _mean(top1), _mean(top5), too_far, silent)


_MOVES_AT_LEAST = 0.1  # of what the output of the model as given does from input to input
_NO_MATTER = 0.05  # of the range
_SAYS_LITTLE = 0.1  # of the calibrated range: noise shows nothing to what looks for text
_FEW_LABELS = 64  # of a single answer, a tie is all that there is to see
_LEAST_EQUAL = 0.5


def _unjudged(
    references: Sequence[Sequence[ReferenceOutput]], calibrated: Sequence[float]
) -> tuple[str, ...]:
    """Return the outputs that take little of their calibrated range on these inputs."""
    outputs = zip(*references, strict=True)
    return tuple(
        each[0].name
        for each, wide in zip(outputs, calibrated, strict=False)
        if each[0].output.size and np.ptp([y.output for y in each]) < _SAYS_LITTLE * wide
    )


def _too_far(
    outputs: Sequence[Sequence[Array]],
    references: Sequence[Sequence[ReferenceOutput]],
    unjudged: Sequence[str],
) -> Iterator[str]:
    """Say what shows that a quantized model is no longer the one that it was made of."""
    for ours, theirs in zip(
        zip(*outputs, strict=True), zip(*references, strict=True), strict=True
    ):
        name, scale = theirs[0].name, theirs[0].scale
        if theirs[0].answers is not None and not theirs[0].answers.ordered:
            equal = [_share_equal(y, each.output) for y, each in zip(ours, theirs, strict=True)]
            if theirs[0].output.size >= _FEW_LABELS and np.mean(equal) < _LEAST_EQUAL:
                yield (
                    f"{name} is too far from the model as given: {np.mean(equal):.0%} of its "
                    f"labels are equal, {_LEAST_EQUAL:.0%} is the least"
                )
            continue
        if name in unjudged:
            continue
        unit = np.ptp([each.output for each in theirs]) if scale is None else scale
        y = np.stack([np.ravel(each / unit) for each in ours]).astype(np.float64)
        wanted = np.stack([np.ravel(each.output / unit) for each in theirs]).astype(np.float64)
        if not y.size or not np.abs(y - wanted).max() > _NO_MATTER:
            continue
        alike = cosine(y, wanted)
        if alike < LEAST_COSINE:
            yield (
                f"{name} is too far from the model as given: cosine {alike:.3f} over inputs in "
                f"the usual range, {LEAST_COSINE} is the least; calibrate on inputs like the real "
                "ones, or leave layers in fp32 (--keep-float auto:20dB)"
            )
        moved, should = (float(np.linalg.norm(each - each.mean(0))) for each in (y, wanted))
        if moved < _MOVES_AT_LEAST * should:
            yield (
                f"{name} hardly depends on the input: from input to input it moves by "
                f"{moved / should:.1%} of what it does in the model as given"
            )


def _worst(outputs: Sequence[InputParity]) -> InputParity:
    """Make one comparison of those of an input's outputs."""
    top1 = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    top5 = [output.top5_agreement for output in outputs if output.top5_agreement is not None]
    return replace(
        max(outputs, key=lambda output: output.of_allowed),
        cosine=min(output.cosine for output in outputs),
        top1_agreement=min(top1, default=None),
        top5_agreement=min(top5, default=None),
    )


def _compare_one(y: Array, reference: ReferenceOutput, tolerance: Tolerance) -> InputParity:
    if reference.answers is not None:
        return _compare_labels(y, reference, reference.answers, tolerance)
    wanted, axis = reference.output, reference.class_axis
    error = error_of_range(y, wanted, reference.scale)
    comparable = np.isfinite(error)
    allowed = tolerance.allowed(reference.spread, reference.step, reference.rounding)
    top1 = top5 = None
    if axis is not None:
        top1 = _top1_agreement(y, reference, allowed) if comparable else 0.0
        top5 = top_agreement(y, wanted, axis, 5) if comparable else 0.0
    return InputParity(
        worst_output=reference.name,
        max_error_of_range=error,
        allowed=allowed,
        reference_spread=reference.spread,
        cosine=cosine(y, wanted) if comparable else 0.0,
        top1_agreement=top1,
        top5_agreement=top5,
    )


def _compare_labels(
    y: Array, reference: ReferenceOutput, answers: Answers, tolerance: Tolerance
) -> InputParity:
    """Compare labels and other whole numbers, which may differ where two are equally right."""
    wanted = reference.output
    allowed = tolerance.allowed(reference.spread, reference.step, reference.rounding)
    wrong = 1.0
    if not np.isfinite(allowed):
        wrong = 0.0  # whoever allows that judges something else
    elif y.shape == wanted.shape and y.dtype == wanted.dtype:
        right = _equal(y, wanted, allowed)
        for other in answers.others(allowed) if not right.all() else ():
            right |= _equal(y, other, allowed)
        wrong = float(np.mean(~right)) if y.size else 0.0
    return InputParity(
        worst_output=reference.name,
        max_error_of_range=wrong,
        allowed=allowed,
        reference_spread=reference.spread,
        cosine=1.0 - wrong,
        top1_agreement=1.0 - wrong,
        top5_agreement=None,
        labels=True,
    )


def _equal(y: Array, wanted: Array, allowed: float) -> NDArray[np.bool_]:
    """Say which numbers are equal; floats that whole ones were made of may be rounded."""
    if np.issubdtype(wanted.dtype, np.floating) and wanted.size:
        span = allowed * float(np.ptp(wanted.astype(np.float64)) or np.abs(wanted).max())
        return np.isclose(y, wanted, rtol=0, atol=span, equal_nan=True)
    same: NDArray[np.bool_] = np.asarray(y == wanted)
    return same


def share_at_ties(reference: ReferenceOutput, allowed: float) -> float:
    """Return the share of an output's labels that may be others."""
    unsure = np.zeros(reference.output.shape, bool)
    for other in reference.answers.others(allowed) if reference.answers else ():
        unsure |= np.asarray(other != reference.output)
    return float(np.mean(unsure)) if unsure.size else 0.0


def _top1_agreement(y: Array, reference: ReferenceOutput, allowed: float) -> float:
    """Return the share of rows whose best class agrees, or is as good within the tolerance."""
    wanted, axis = reference.output, reference.class_axis
    assert axis is not None
    if not wanted.size:
        return 1.0
    ours, theirs = _rows(y, axis), _rows(wanted, axis)
    rows = np.arange(len(ours))
    lost = theirs.max(axis=1) - theirs[rows, ours.argmax(axis=1)]
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return float(np.mean(same | (lost <= 2 * allowed * reference.span)))


def _share_equal(y: Array, wanted: Array) -> float:
    return float(np.mean(y == wanted)) if y.shape == wanted.shape and wanted.size else 1.0


def _rows(y: Array, axis: int) -> Array:
    """Return one row of class scores per image, or per pixel or anchor."""
    return np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
