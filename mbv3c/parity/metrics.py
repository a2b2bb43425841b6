"""How far an output is from the reference, in the figures that people compare by.

Every figure is computed in float64, over the places where both sides are finite. Formulas, and the
names that Polygraphy uses: docs/metrics.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Doubles = NDArray[np.float64]
Index = tuple[int, ...]

QUANTILES = (50.0, 90.0, 99.0, 99.9)  # percent


@dataclass(frozen=True)
class NotFinite:
    """NaN and infinities of one side.

    Attributes:
        nan: number of NaN.
        nan_at: index of the first NaN in the order of memory; None if there is none.
        inf: number of infinities of either sign.
        inf_at: index of the first infinity in the order of memory; None if there is none.
    """

    nan: int
    nan_at: Index | None
    inf: int
    inf_at: Index | None


@dataclass(frozen=True)
class Metrics:
    """One output for one input against the reference.

    A figure is None if there is no pair to compare, or no class scores. An error over a range or a
    value of 0 is infinite, and so is a ratio in dB if nothing differs.

    Attributes:
        values: number of values of the reference.
        compared: number of pairs of finite values; 0 if the shapes differ.
        ours: NaN and infinities among our values.
        reference: NaN and infinities among the reference's values.
        max_abs: largest absolute error.
        max_abs_at: index of the largest absolute error; of several the first.
        mean_abs: mean absolute error.
        max_rel: largest error relative to the reference's value; 0 where both are 0.
        max_rel_at: index of the largest relative error; of several the first.
        mean_rel: mean relative error.
        max_of_range: largest absolute error over the reference's range.
        cosine: cosine similarity of the output and the reference as vectors.
        psnr_db: the reference's range over the root of the mean squared error.
        snr_db: power of the reference over power of the error.
        quantiles: quantiles of the absolute errors, by percent, such as "99.9".
        top1: share of images (pixels, anchors) whose best class agrees; no tie is forgiven.
        top5: share of the reference's five best classes that are among ours; no tie is forgiven.
    """

    values: int
    compared: int
    ours: NotFinite
    reference: NotFinite
    max_abs: float | None = None
    max_abs_at: Index | None = None
    mean_abs: float | None = None
    max_rel: float | None = None
    max_rel_at: Index | None = None
    mean_rel: float | None = None
    max_of_range: float | None = None
    cosine: float | None = None
    psnr_db: float | None = None
    snr_db: float | None = None
    quantiles: Mapping[str, float | None] = field(
        default_factory=lambda: dict.fromkeys(f"{q:g}" for q in QUANTILES)
    )
    top1: float | None = None
    top5: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every value of the reference has a finite pair."""
        return self.compared == self.values

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; what is infinite becomes null."""
        return dict(finite(asdict(self)))


def measure(y: Values, reference: Values, class_axis: int | None = None) -> Metrics:
    """Compare an output with the reference.

    Args:
        y: our output, of any shape and real type.
        reference: the wanted output.
        class_axis: axis of the classes in `reference`; None if it holds no class scores.
    """
    ours, theirs = np.asarray(y, np.float64), np.asarray(reference, np.float64)
    metrics = Metrics(theirs.size, 0, _not_finite(ours), _not_finite(theirs))
    if ours.shape != theirs.shape:
        return metrics if class_axis is None else replace(metrics, top1=0.0, top5=0.0)
    if class_axis is not None:
        top1, top5 = (top_agreement(ours, theirs, class_axis, k) for k in (1, 5))
        metrics = replace(metrics, top1=top1, top5=top5)
    places = np.flatnonzero(np.isfinite(ours) & np.isfinite(theirs))
    if not places.size:
        return metrics
    a, b = ours.ravel()[places], theirs.ravel()[places]
    error = np.abs(a - b)
    relative = _relative(error, np.abs(b))
    square = float(np.mean(error**2))
    spread = float(np.ptp(b))

    def index_of_largest(values: Doubles) -> Index:
        return tuple(map(int, np.unravel_index(places[values.argmax()], theirs.shape)))

    return replace(
        metrics,
        compared=places.size,
        max_abs=float(error.max()),
        max_abs_at=index_of_largest(error),
        mean_abs=float(error.mean()),
        max_rel=float(relative.max()),
        max_rel_at=index_of_largest(relative),
        mean_rel=float(relative.mean()),
        max_of_range=over_range(float(error.max()), spread),
        cosine=cosine(a, b),
        psnr_db=_decibels(spread**2, square),
        snr_db=_decibels(float(np.mean(b**2)), square),
        quantiles={f"{q:g}": quantile(error, q) for q in QUANTILES},
    )


def errors(y: Values, reference: Values) -> Doubles:
    """Return the absolute errors where both sides are finite, flat; none if the shapes differ."""
    ours, theirs = np.asarray(y, np.float64), np.asarray(reference, np.float64)
    if ours.shape != theirs.shape:
        return np.empty(0)
    finite = np.isfinite(ours) & np.isfinite(theirs)
    absolute: Doubles = np.abs(ours[finite] - theirs[finite])
    return absolute


def quantile(error: Doubles, percent: float) -> float | None:
    """Return the error that this percentage does not exceed, linear between neighbours."""
    return float(np.percentile(error, percent)) if error.size else None


def cosine(a: Values, b: Values) -> float:
    """Return the cosine of two arrays as vectors: 1 for two zero vectors, 0 for only one."""
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return max(-1.0, min(float(a @ b) / norms, 1.0)) if norms > 0 else float(np.array_equal(a, b))


def top_agreement(y: Values, reference: Values, axis: int, k: int) -> float | None:
    """Return the share of the reference's k largest classes that are among ours.

    Of equal scores the first class comes first. A row that holds NaN or infinity on either side
    agrees on nothing. The result is None without rows or classes.
    """
    if not reference.size:
        return None
    ours, theirs = (np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in (y, reference))
    largest = [np.argsort(-x, axis=1, kind="stable")[:, :k] for x in (ours, theirs)]
    agreeing = (largest[0][:, :, None] == largest[1][:, None, :]).any(axis=1)
    agreeing[~(np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1))] = False
    return float(agreeing.mean())


def _not_finite(values: Doubles) -> NotFinite:
    nan, infinite = np.isnan(values), np.isinf(values)
    return NotFinite(int(nan.sum()), _first(nan), int(infinite.sum()), _first(infinite))


def _first(places: NDArray[np.bool_]) -> Index | None:
    if not places.any():
        return None
    return tuple(map(int, np.unravel_index(places.argmax(), places.shape)))


def _relative(error: Doubles, size: Doubles) -> Doubles:
    zero = np.where(error == 0, 0.0, inf)
    with np.errstate(over="ignore"):  # over a denormal; that is infinite, too
        return np.divide(error, size, out=zero, where=size > 0)


def over_range(error: float, spread: float) -> float:
    """Return an error as a fraction of a range: 0 where there is none, infinite over nothing."""
    if error == 0:
        return 0.0
    return error / spread if spread > 0 else inf


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return inf
    return 10 * (log10(signal) - log10(noise)) if signal > 0 else -inf


def finite(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
