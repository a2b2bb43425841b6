"""Judge an output that fp32 computes badly by what the network gives in float64."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mbv3c.feeds import Array
from mbv3c.parity.conditioning import Doubt
from mbv3c.parity.reference import ReferenceOutput, error_of_range
from mbv3c.parity.tolerance import Tolerance
from mbv3c.parity.verdict import IllConditioned

_LAST_BITS = 2 * float(np.finfo(np.float32).eps)  # of which `times_noise` are allowed
_SAFELY = 4.0  # inputs differ in how much of them cancels, and one is asked for all


def is_doubted(reference: ReferenceOutput, tolerance: Tolerance) -> bool:
    """Say whether fp32 computes an output badly, so that onnxruntime's is no reference.

    Its ways of computing may happen to agree, so it is also compared with float64, on one input.
    """
    if tolerance.doubts(reference.spread, reference.rounding):
        return True
    doubt = reference.doubt
    if doubt is None or tolerance.most is None or not np.isfinite(reference.spread):
        return False
    return tolerance.doubts(doubt.apart, reference.rounding)


@dataclass(frozen=True)
class Judged:
    """An output that fp32 computes badly, beside float64.

    Attributes:
        exact: what it is held to.
        error: the largest error, of range; of several channels that nearest to its limit.
        allowed: the limit of that error.
        found: what was found out.
    """

    exact: Array
    error: float
    allowed: float
    found: IllConditioned


def in_float64(
    y: Array, reference: ReferenceOutput, tolerance: Tolerance, error: float
) -> Judged | None:
    """Compare an output with float64, if fp32 computes it badly; else the result is None.

    That is so if onnxruntime spreads by more than `tolerance.most` allows, or is so far from
    float64 by itself, or if the output is further from onnxruntime's than is allowed, `error`, but
    correct fp32 arithmetic may be, too.

    First `tolerance.most` is allowed. Only if that is too little, it is found out how far correct
    fp32 arithmetic is from float64, for every channel that has a range of its own; a few times as
    much is allowed, but never more than `tolerance.most_in_doubt`. An output beyond that, which
    correct arithmetic may give, too, is not judged.
    """
    doubt, scale = reference.doubt, reference.scale
    allowed = tolerance.allowed(reference.spread, reference.step, reference.rounding)
    doubted = is_doubted(reference, tolerance)
    if tolerance.most is None or not (doubted or error > allowed):
        return None
    if doubt is None or not (doubted or _unsound(doubt, allowed, tolerance)):
        return None
    exact = doubt.exact
    if exact is None or exact.shape != y.shape:
        judged = not tolerance.most < error <= tolerance.times_spread * reference.spread
        return Judged(reference.output, error, tolerance.most, IllConditioned("", None, judged))
    error = error_of_range(y, exact, scale)
    if doubted and error <= tolerance.most:
        return Judged(exact, error, tolerance.most, IllConditioned(doubt.layer, None, judged=True))
    errors, noise = _by_channel(y, exact, reference, doubt.noise)
    possible = tolerance.times_noise * noise
    if not doubted and possible.max() <= allowed:
        return None
    limits = np.clip(possible, tolerance.most if doubted else allowed, tolerance.most_in_doubt)
    worst = int((errors / limits).argmax())
    judged = bool((errors <= limits).all() or (errors > np.maximum(limits, possible)).any())
    found = IllConditioned(doubt.layer, float(noise[worst]), judged)
    return Judged(exact, float(errors[worst]), float(limits[worst]), found)


def _unsound(doubt: Doubt, allowed: float, tolerance: Tolerance) -> bool:
    """Say whether correct arithmetic might err by as much as is allowed."""
    times = tolerance.times_noise
    return times > 0 and not doubt.sound(allowed / (_SAFELY * times))


def label_in_float64(
    reference: ReferenceOutput, tolerance: Tolerance
) -> tuple[Array | None, IllConditioned | None]:
    """Return labels whose scores fp32 computes badly, as float64 decides; None of others."""
    doubt = reference.doubt
    if doubt is None or not is_doubted(reference, tolerance):
        return None, None
    exact = doubt.exact
    fits = exact is not None and exact.shape == reference.output.shape
    return exact if fits else None, IllConditioned(doubt.layer, None, judged=True)


def golden_in_float64(
    reference: ReferenceOutput, tolerance: Tolerance
) -> tuple[ReferenceOutput, float]:
    """Return what an output is compared with on a board, and what rounding allows, of range.

    Where fp32 computes it well, that is onnxruntime's output and what its spread allows.
    """
    allowed = tolerance.of_spread(reference.spread, reference.rounding)
    doubt = reference.doubt
    if doubt is None or not is_doubted(reference, tolerance):
        return reference, allowed
    exact = doubt.exact
    if exact is None or exact.shape != reference.output.shape:
        return reference, allowed
    held = replace(reference, output=exact.astype(reference.output.dtype))
    if reference.answers is not None:
        return held, allowed
    assert tolerance.most is not None
    _, noise = _by_channel(exact, exact, reference, doubt.noise)
    worst = tolerance.times_noise * float(noise.max())
    return held, float(np.clip(worst, tolerance.most, tolerance.most_in_doubt))


def _by_channel(
    y: Array, exact: Array, reference: ReferenceOutput, noise: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest error and the noise of every channel, as fractions of its range.

    The noise is some last bits of the largest number at least: a bias first or last, a sum in
    parts, all round at the size of the result, however little of it is the channel's range.
    """
    errors, sizes = np.abs(y.astype(np.float64) - exact), np.abs(exact)
    scale = reference.scale
    if scale is None or scale.size == 1:
        span = reference.span
        least = _LAST_BITS * sizes.max()
        return np.array([errors.max()]) / span, np.atleast_1d(max(noise.max(), least)) / span
    axes = tuple(axis for axis, count in enumerate(scale.shape) if count == 1)
    each = np.maximum(noise.ravel(), _LAST_BITS * sizes.max(axis=axes))
    return errors.max(axis=axes) / scale.ravel(), each / scale.ravel()
