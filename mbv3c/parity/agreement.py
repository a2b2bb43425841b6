"""How near outputs come to those of another model: of a quantized one to the fp32 one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3c.feeds import Array
from mbv3c.parity.inputs import USUAL_INPUTS
from mbv3c.parity.metrics import cosine, top_agreement
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import LEAST_COSINE


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
    top1, top5 = [], []
    for ours, theirs in zip(outputs, references, strict=True):
        for y, reference in zip(ours, theirs, strict=True):
            if _are_labels(reference):
                top1.append(_share_equal(y, reference.output))
                continue
            if reference.class_axis is not None:
                top1.append(top1_agreement(y, reference, 0.0))
                top5.append(top_agreement(y, reference.output, reference.class_axis, 5))
    silent = _unjudged(references[:usual], calibrated)
    too_far = tuple(_too_far(outputs[:usual], references[:usual], silent))
    least = min(cosines(outputs, references), default=1.0)
    return Agreement(least, mean(top1), mean(top5), too_far, silent)


_FEW_VALUES = 16  # the direction of so few says little, of a single one nothing but its sign


def cosines(
    outputs: Sequence[Sequence[Array]], references: Sequence[Sequence[ReferenceOutput]]
) -> list[float]:
    """Return the least cosine of the outputs for each input.

    Outputs of few values are vectors over all inputs. Labels have no cosine.
    """
    least = [1.0] * len(references)
    columns = zip(zip(*outputs, strict=True), zip(*references, strict=True), strict=True)
    for ours, theirs in columns:
        if _are_labels(theirs[0]):
            continue
        wanted = [reference.output for reference in theirs]
        if wanted[0].size < _FEW_VALUES:
            together = cosine(*(np.stack([np.ravel(y) for y in each]) for each in (ours, wanted)))
            each = [together] * len(least)
        else:
            each = [cosine(*pair) for pair in zip(ours, wanted, strict=True)]
        least = list(map(min, least, each))
    return least


def _are_labels(reference: ReferenceOutput) -> bool:
    return reference.answers is not None and not reference.answers.ordered


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
        if each[0].output.size
        and np.ptp([y.output.astype(np.float64) for y in each]) < _SAYS_LITTLE * wide
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
        if _are_labels(theirs[0]):
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


def top1_agreement(y: Array, reference: ReferenceOutput, allowed: float) -> float:
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


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
