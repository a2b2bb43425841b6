"""Prove rewrites by onnxruntime: run what a rewrite replaces and its replacement side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime import GraphOptimizationLevel as Level

from mbv3c.errors import ModelError
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.metrics import over_range
from mbv3c.parity.reference import OPTIMIZED, PLAIN, session
from mbv3c.parity.tolerance import EXACT, PROOF_TOLERANCES, TOLERANCES
from mbv3c.passes.report import Change, ProofVerdict
from mbv3c.steps import of_large, step

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

# Where hard-swish and hard-sigmoid bend, and the zero between.
_POINTS = (-3.0, 0.0, 3.0)


def _per_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], *(1 for _ in shape[2:]))


def _edges(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw the points themselves and their neighbours in fp32 on both sides."""
    point = rng.choice(_POINTS, shape).astype(np.float32)
    towards = rng.choice(np.array([-np.inf, 0.0, np.inf], np.float32), shape)
    beside = np.nextafter(point, towards)
    return np.where(towards == 0.0, point, beside).astype(np.float64)


def _near(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice(_POINTS, shape) + 0.5 * rng.standard_normal(shape)


def _near_by_channel(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw one point per image and channel, so that a mean over the map is not near zero."""
    return rng.choice(_POINTS, _per_channel(shape)) + 0.5 * rng.standard_normal(shape)


def _wide(scale: float) -> Draw:
    return lambda rng, shape: scale * rng.standard_normal(shape)


def _wide_by_channel(scale: float) -> Draw:
    return lambda rng, shape: (
        scale * (rng.standard_normal(_per_channel(shape)) + 0.5 * rng.standard_normal(shape))
    )


# Each kind of input, as a refusal names it, with two ways to draw an array of a shape: all values
# alike, and values that depend on the channel.
KINDS: dict[str, tuple[Draw, ...]] = {
    "inputs at -3, 0 and 3": (_edges, _edges),
    "inputs around -3, 0 and 3": (_near, _near_by_channel),
    "inputs of standard deviation 8": (_wide(8.0), _wide_by_channel(8.0)),
    "inputs of standard deviation 100": (_wide(100.0), _wide_by_channel(100.0)),
}


Named = dict[str, Array]
Outputs = list[Array]


_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
}


def _taken(value: ort.NodeArg, x: Array) -> Array:
    """Return numbers in the type of an input: whole ones for integers, none below 0 for bytes."""
    dtype = _TYPES.get(value.type, np.float32)
    if not np.issubdtype(dtype, np.integer):
        return x.astype(dtype)
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    whole = np.abs(np.rint(x)) if limits.min == 0 else np.rint(x)
    return np.clip(whole, limits.min, limits.max).astype(dtype)


@dataclass(frozen=True)
class _Kind:
    """Inputs of one kind, one feed per run; the outputs of all runs are compared together."""

    name: str
    feeds: tuple[Named, ...]


class _CannotRunError(Exception):
    """onnxruntime cannot load or run a model."""


def prove(change: Change) -> ProofVerdict:
    """Run both models on equal inputs, without graph optimisations, and compare every output.

    The error is the largest absolute one, over the range that `change.before` gives on inputs of
    one kind; the worst kind counts. An input is left out if `change.before` is not finite on it.
    """
    try:
        before = _open(change.before)
        kinds = _parity_kinds(before) if change.whole_graph else _rewrite_kinds(before)
        wanted = [[_run(before, feed) for feed in kind.feeds] for kind in kinds]
    except _CannotRunError as error:
        return _failure(f"onnxruntime cannot run what was there: {error}")
    try:
        after = _open(change.after)
        got = [[_run(after, feed) for feed in kind.feeds] for kind in kinds]
    except _CannotRunError as error:
        return _failure(f"onnxruntime cannot run what it puts there: {error}")
    verdicts = [
        verdict
        for kind, theirs, ours in zip(kinds, wanted, got, strict=True)
        if (verdict := _compare(change, kind, theirs, ours)) is not None
    ]
    if not verdicts:
        return _failure("onnxruntime gives no finite result to compare with")
    failed = [verdict for verdict in verdicts if not verdict.passed]
    return max(failed or verdicts, key=lambda verdict: verdict.max_error_of_range)


def _failure(reason: str) -> ProofVerdict:
    return ProofVerdict(float("inf"), 0.0, reason)


def _compare(
    change: Change, kind: _Kind, wanted: Sequence[Outputs], got: Sequence[Outputs]
) -> ProofVerdict | None:
    """Compare the runs of one kind; None if `change.before` is finite in no run."""
    usable = [i for i, outputs in enumerate(wanted) if all(np.isfinite(y).all() for y in outputs)]
    if not usable:
        return None
    theirs, ours = [wanted[i] for i in usable], [got[i] for i in usable]
    error = _error(ours, theirs)
    dtype = str(theirs[0][0].dtype)
    tolerance = TOLERANCES["fp32"] if change.whole_graph else PROOF_TOLERANCES.get(dtype, EXACT)
    allowed = tolerance.of_range
    if allowed < error < float("inf"):
        # Only now, as it takes longest: how much does rounding alone do here?
        feeds = [kind.feeds[i] for i in usable]
        allowed = tolerance.allowed(_spread(change.before, feeds, theirs))
    if error <= allowed:
        return ProofVerdict(error, allowed)
    if error == float("inf"):
        what = "another shape or type, not finite, or off where the output should be constant,"
        return ProofVerdict(error, allowed, f"{what} on {kind.name}")
    off = f"{error:.1e} of the output's range off on {kind.name}"
    return ProofVerdict(error, allowed, f"{off} (allowed {allowed:.1e})")


def _spread(before: onnx.ModelProto, feeds: Sequence[Named], wanted: Sequence[Outputs]) -> float:
    """Return how far onnxruntime's own optimisation levels move the model before the change."""
    spread = 0.0
    for level in OPTIMIZED:
        try:
            opened = _open(before, level)
            outputs = [_run(opened, feed) for feed in feeds]
        except _CannotRunError:
            continue  # a level that cannot run this excuses nothing
        spread = max(spread, _error(outputs, wanted))
    return spread


def _error(got: Sequence[Outputs], wanted: Sequence[Outputs]) -> float:
    """Return the largest error of any output, over the output's range in all runs."""
    return max(
        _output_error(ours, theirs)
        for ours, theirs in zip(zip(*got, strict=True), zip(*wanted, strict=True), strict=True)
    )


def _output_error(got: tuple[Array, ...], wanted: tuple[Array, ...]) -> float:
    """Return the largest error of one output over its range; infinite if no error is parity."""
    pairs = list(zip(got, wanted, strict=True))
    if any(y.shape != w.shape or y.dtype != w.dtype for y, w in pairs):
        return float("inf")
    if not all(np.isfinite(y).all() for y in got):
        return float("inf")
    error = max(float(np.abs(y - w.astype(np.float64)).max(initial=0.0)) for y, w in pairs)
    if error == 0.0:  # also of what is empty, and has no range
        return 0.0
    spread = float(max(w.max() for w in wanted)) - float(min(w.min() for w in wanted))
    return over_range(error, spread)


def _parity_kinds(opened: ort.InferenceSession) -> list[_Kind]:
    """Return the inputs that parity is checked on, each scale as a separate kind."""
    drawn = {value.name: parity_inputs(_shape(value)) for value in opened.get_inputs()}
    feeds = [
        {
            value.name: _taken(value, x)
            for value, x in zip(opened.get_inputs(), arrays, strict=True)
        }
        for arrays in zip(*drawn.values(), strict=True)
    ]
    return [_Kind("the inputs that parity is checked on", (feed,)) for feed in feeds]


def _rewrite_kinds(opened: ort.InferenceSession) -> list[_Kind]:
    """Return the inputs that single rewrites are checked on."""
    rng = np.random.default_rng(20190506)

    def feed(draw: Draw) -> Named:
        return {
            value.name: _taken(value, draw(rng, _shape(value))) for value in opened.get_inputs()
        }

    return [_Kind(name, tuple(map(feed, draws))) for name, draws in KINDS.items()]


def _shape(value: ort.NodeArg) -> tuple[int, ...]:
    if not all(isinstance(size, int) for size in value.shape):
        raise _CannotRunError(f"the shape of {value.name!r} is not fixed")
    return tuple(value.shape)


def _open(model: onnx.ModelProto, level: Level = PLAIN) -> ort.InferenceSession:
    try:
        return session(model, level)
    except ModelError as error:
        raise _CannotRunError(str(error)) from error


def _run(opened: ort.InferenceSession, feed: Named) -> Outputs:
    try:
        with step("running the model", "onnxruntime", of_large):
            return [np.asarray(y) for y in opened.run(None, feed)]
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise _CannotRunError(str(error)) from error
