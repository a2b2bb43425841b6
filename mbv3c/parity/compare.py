"""Compare outputs with the reference and give a verdict."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.parity.kernel_parity import KernelsParity
from mbv3c.parity.metrics import cosine, top_agreement
from mbv3c.parity.reference import ReferenceOutput, error_of_range
from mbv3c.parity.tolerance import Tolerance


@dataclass(frozen=True)
class InputParity:
    """The comparison on one input; of several outputs, each figure is that of the worst.

    Attributes:
        worst_output: name of the output that comes closest to its limit, or is furthest beyond
            it; the next three figures are its.
        max_error_of_range: largest absolute error over the reference's range.
        allowed: the tolerance on this input.
        reference_spread: onnxruntime's own spread on it.
        cosine: cosine similarity of the flattened outputs.
        top1_agreement: share of images whose largest class score is the same one; in outputs
            with scores for pixels or anchors, share of those, where a class that the reference
            itself holds equal within the tolerance counts as the same. None if no output holds
            class scores.
        top5_agreement: share of the reference's five largest scores that are found among ours.
    """

    worst_output: str
    max_error_of_range: float
    allowed: float
    reference_spread: float
    cosine: float
    top1_agreement: float | None
    top5_agreement: float | None

    @property
    def passed(self) -> bool:
        return self.max_error_of_range <= self.allowed and self.top1_agreement in (1.0, None)

    @property
    def of_allowed(self) -> float:
        """The error as a fraction of what is allowed."""
        return self.max_error_of_range / self.allowed


@dataclass(frozen=True)
class Pair:
    """One output for one input: what was computed, and what should have been.

    Attributes:
        ours: the output.
        reference: what onnxruntime computes.
        judged: the comparison by the standing rules; None where they judge something else.
    """

    ours: NDArray[np.float32]
    reference: ReferenceOutput
    judged: InputParity | None = None


# Every output for every input.
Pairs = tuple[tuple[Pair, ...], ...]


@dataclass(frozen=True)
class Agreement:
    """How near outputs come to those of another model: the fp32 one of a quantized one.

    Attributes:
        cosine: the least over inputs and outputs.
        top1, top5: the means of what `InputParity` calls agreement.
    """

    cosine: float
    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class Parity:
    """The verdict over all inputs.

    Attributes:
        ran_on: what executed the library.
        exact_program: whether that was the library itself, or the same model built for another
            machine.
        inputs: one comparison per input.
        as_given: how near a quantized model comes to the model as given; no part of the verdict.
        kernels: what the kernels of a quantized network have shown by themselves.
        pairs: what was compared.
    """

    ran_on: str
    exact_program: bool
    inputs: tuple[InputParity, ...]
    as_given: Agreement | None = None
    kernels: KernelsParity | None = None
    pairs: Pairs = field(default=(), repr=False, compare=False)

    @property
    def passed(self) -> bool:
        alone = self.kernels is None or self.kernels.passed
        return alone and all(one.passed for one in self.inputs)

    @property
    def worst(self) -> InputParity:
        """The input that comes closest to its limit, or is furthest beyond it."""
        return max(self.inputs, key=lambda one: one.of_allowed)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; a value that is not finite becomes null."""
        summary = {
            "passed": self.passed,
            "ran_on": self.ran_on,
            "exact_program": self.exact_program,
            "worst_output": self.worst.worst_output,
            "max_error_of_range": self.worst.max_error_of_range,
            "tolerance": self.worst.allowed,
            "reference_spread": self.worst.reference_spread,
            "cosine": min(one.cosine for one in self.inputs),
            "top1_agreement": _mean(one.top1_agreement for one in self.inputs),
            "top5_agreement": _mean(one.top5_agreement for one in self.inputs),
        }
        rows = [{**asdict(one), "passed": one.passed} for one in self.inputs]
        found = {**_finite(summary), "inputs": [_finite(row) for row in rows]}
        if self.as_given is not None:
            found["against_model_as_given"] = _finite(asdict(self.as_given))
        if self.kernels is not None:
            found["kernels_alone"] = self.kernels.to_json()
        return found


def compare(
    outputs: Sequence[Sequence[NDArray[np.float32]]],
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
    rows = tuple(_worst([one.judged for one in row if one.judged]) for row in pairs)
    return Parity(ran_on, exact_program, rows, pairs=pairs)


def with_pooled_spread(
    references: Sequence[Sequence[ReferenceOutput]], tolerance: Tolerance
) -> list[list[ReferenceOutput]]:
    """Give every output the largest spread over all inputs, if the tolerance says so."""
    if not tolerance.pooled:
        return [list(one) for one in references]
    largest = [max(each.spread for each in outputs) for outputs in zip(*references, strict=True)]
    return [
        [replace(one, spread=spread) for one, spread in zip(outputs, largest, strict=True)]
        for outputs in references
    ]


def agreement(
    outputs: Sequence[Sequence[NDArray[np.float32]]],
    references: Sequence[Sequence[ReferenceOutput]],
) -> Agreement:
    """Say how near the outputs for each input come to those of another model."""
    least, top1, top5 = 1.0, [], []
    for ours, theirs in zip(outputs, references, strict=True):
        for y, reference in zip(ours, theirs, strict=True):
            least = min(least, cosine(y, reference.output))
            if reference.class_axis is not None:
                top1.append(_top1_agreement(y, reference.output, reference.class_axis, 0.0))
                top5.append(top_agreement(y, reference.output, reference.class_axis, 5))
    return Agreement(least, _mean(top1), _mean(top5))


def _worst(outputs: Sequence[InputParity]) -> InputParity:
    """Make one comparison of those of an input's outputs."""
    top1 = [one.top1_agreement for one in outputs if one.top1_agreement is not None]
    top5 = [one.top5_agreement for one in outputs if one.top5_agreement is not None]
    return replace(
        max(outputs, key=lambda one: one.of_allowed),
        cosine=min(one.cosine for one in outputs),
        top1_agreement=min(top1, default=None),
        top5_agreement=min(top5, default=None),
    )


def _compare_one(
    y: NDArray[np.float32], reference: ReferenceOutput, tolerance: Tolerance
) -> InputParity:
    wanted, axis = reference.output, reference.class_axis
    error = error_of_range(y, wanted)
    comparable = np.isfinite(error)
    allowed = tolerance.allowed(reference.spread, reference.step)
    top1 = top5 = None
    if axis is not None:
        top1 = _top1_agreement(y, wanted, axis, allowed, reference.step) if comparable else 0.0
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


def _top1_agreement(
    y: NDArray[np.float32],
    wanted: NDArray[np.float32],
    axis: int,
    allowed: float,
    step: float | None = None,
) -> float:
    ours, theirs = _rows(y, axis), _rows(wanted, axis)
    rows = np.arange(len(ours))
    lost = theirs.max(axis=1) - theirs[rows, ours.argmax(axis=1)]
    # Among thousands of pixels or anchors rounding decides some ties; one image is no tie, unless
    # its scores are integers.
    ties = wanted.ndim > 2 or step is not None
    tie = 2 * allowed * float(np.ptp(wanted)) if ties else 0.0
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return float(np.mean(same | (lost <= tie) if tie > 0 else same))


def _rows(y: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return one row of class scores per image, or per pixel or anchor."""
    return np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in row.items()
    }
