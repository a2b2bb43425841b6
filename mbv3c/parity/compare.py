"""Compare outputs with the reference and give a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.parity.reference import ReferenceOutput, error_of_range
from mbv3c.parity.tolerance import Tolerance


@dataclass(frozen=True)
class InputParity:
    """The comparison on one input.

    Attributes:
        max_error_of_range: largest absolute error over the reference's range.
        allowed: the tolerance on this input.
        reference_spread: onnxruntime's own spread on it.
        cosine: cosine similarity of the flattened outputs.
        top1_agreement: share of images whose largest logit is the same one; for segmentation of
            pixels, where a class that the reference itself holds equal within the tolerance
            counts as the same.
        top5_agreement: share of the reference's five largest logits that are found among ours.
    """

    max_error_of_range: float
    allowed: float
    reference_spread: float
    cosine: float
    top1_agreement: float
    top5_agreement: float

    @property
    def passed(self) -> bool:
        return self.max_error_of_range <= self.allowed and self.top1_agreement == 1.0


@dataclass(frozen=True)
class Parity:
    """The verdict over all inputs.

    Attributes:
        ran_on: what executed the library.
        exact_program: whether that was the library itself, or the same model built for another
            machine.
        inputs: one comparison per input.
    """

    ran_on: str
    exact_program: bool
    inputs: tuple[InputParity, ...]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.inputs)

    @property
    def worst(self) -> InputParity:
        """The input that comes closest to its limit, or is furthest beyond it."""
        return max(self.inputs, key=lambda one: one.max_error_of_range / one.allowed)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; a value that is not finite becomes null."""
        summary = {
            "passed": self.passed,
            "ran_on": self.ran_on,
            "exact_program": self.exact_program,
            "max_error_of_range": max(one.max_error_of_range for one in self.inputs),
            "tolerance": self.worst.allowed,
            "reference_spread": max(one.reference_spread for one in self.inputs),
            "cosine": min(one.cosine for one in self.inputs),
            "top1_agreement": float(np.mean([one.top1_agreement for one in self.inputs])),
            "top5_agreement": float(np.mean([one.top5_agreement for one in self.inputs])),
        }
        rows = [{**asdict(one), "passed": one.passed} for one in self.inputs]
        return {**_finite(summary), "inputs": [_finite(row) for row in rows]}


def compare(
    outputs: Sequence[NDArray[np.float32]],
    references: Sequence[ReferenceOutput],
    tolerance: Tolerance,
    *,
    ran_on: str,
    exact_program: bool,
) -> Parity:
    """Compare one output per input with the reference's."""
    rows = tuple(
        _compare_one(y, reference, tolerance)
        for y, reference in zip(outputs, references, strict=True)
    )
    return Parity(ran_on, exact_program, rows)


def _compare_one(
    y: NDArray[np.float32], reference: ReferenceOutput, tolerance: Tolerance
) -> InputParity:
    wanted = reference.output
    error = error_of_range(y, wanted)
    comparable = np.isfinite(error)
    allowed = tolerance.allowed(reference.spread)
    return InputParity(
        max_error_of_range=error,
        allowed=allowed,
        reference_spread=reference.spread,
        cosine=_cosine(y, wanted) if comparable else 0.0,
        top1_agreement=_top1_agreement(y, wanted, allowed) if comparable else 0.0,
        top5_agreement=_top5_agreement(y, wanted) if comparable else 0.0,
    )


def _cosine(y: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    a, b = y.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(float(a @ b) / norms, 1.0) if norms > 0 else float(np.array_equal(a, b))


def _top1_agreement(y: NDArray[np.float32], wanted: NDArray[np.float32], allowed: float) -> float:
    ours, theirs = _rows(y), _rows(wanted)
    rows = np.arange(len(ours))
    lost = theirs.max(axis=1) - theirs[rows, ours.argmax(axis=1)]
    # Among thousands of pixels some are ties that rounding decides; one image is no tie.
    tie = 2 * allowed * float(np.ptp(wanted)) if wanted.ndim > 2 else 0.0
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return float(np.mean(same | (lost <= tie) if tie > 0 else same))


def _top5_agreement(y: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    k = min(5, _rows(y).shape[1])
    ours, theirs = (np.argsort(-_rows(x), axis=1, kind="stable")[:, :k] for x in (y, wanted))
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=1).mean())


def _rows(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one row of class scores per image, or per pixel: classes are on axis 1."""
    if y.ndim < 2:
        return y.reshape(1, -1)
    return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in row.items()
    }
