"""The range of every tensor, from its values on calibration inputs.

`minmax` reads the inputs once. The other methods read them twice, and fill a histogram between the
extremes the second time. So memory holds the tensors of one inference and, per tensor, two numbers
or one histogram, however many inputs there are.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mbv3c.errors import CalibrationError
from mbv3c.feeds import Array, Feed
from mbv3c.parity.reference import feed_for, session, with_outputs
from mbv3c.parity.running import run_for
from mbv3c.quantization.layers import float_tensors
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.steps import of_large, step

Histogram = NDArray[np.float64]
Bounds = tuple[float, float]

_BINS = 2048
# Entropy compares so many levels, on so many bins. On more bins, which are emptier, the loss by
# coarse levels would outweigh the loss by cutting off, and far too much would be cut off.
_LEVELS = 256
_COARSE_BINS = 512
_CANDIDATES = 128  # ranges that entropy tries
_NEVER = 1e-9  # stands for the probability of what never happens


@dataclass(frozen=True)
class Range:
    """The least and the largest value that a quantized tensor can hold."""

    low: float
    high: float

    def within(self, low: float, high: float) -> "Range":
        """Return the part of this range between two bounds."""
        low = min(max(self.low, low), high)
        return Range(low, max(min(self.high, high), low))


@dataclass(frozen=True)
class Observed:
    """What calibration inputs have shown of the fp32 tensors of a graph.

    Attributes:
        extremes: the least and the largest value of every tensor.
        histograms: how often values lie in equal parts between these; none for `minmax` alone.
    """

    extremes: Mapping[str, Range]
    histograms: Mapping[str, Histogram]

    def ranges(self, options: QuantizeOptions) -> dict[str, Range]:
        """Return the range of every tensor by `method` and `percentile` of the options."""
        if options.method == "minmax":
            return dict(self.extremes)
        choose = _most_alike if options.method == "entropy" else _percentile(options.percentile)
        return {
            name: choose(counts, self.extremes[name]) if counts.any() else self.extremes[name]
            for name, counts in self.histograms.items()
        }


def observe(
    model: onnx.ModelProto, batches: Callable[[], Iterator[Feed]], *, spread: bool
) -> Observed:
    """Run calibration inputs, and a second time for histograms, which all but `minmax` need.

    Args:
        model: the fp32 model.
        batches: function that reads the inputs from the beginning.
        spread: whether to make histograms.

    Raises:
        CalibrationError: an input makes a tensor NaN or infinite.
    """
    names = list(float_tensors(model))
    opened = session(with_outputs(model, names))
    extremes: dict[str, Range] = {}
    for index, x in enumerate(batches()):
        for name, value in run_all(opened, names, x):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                raise CalibrationError(
                    f"calibration batch {index} makes tensor {name!r} NaN or infinite; leave that "
                    "input out, or check how inputs are normalised"
                )
            known = extremes.get(name, Range(low, high))
            extremes[name] = Range(min(known.low, low), max(known.high, high))
    if not spread:
        return Observed(extremes, {})
    histograms = {name: np.zeros(_BINS) for name in names}
    for x in batches():
        for name, value in run_all(opened, names, x):
            known = extremes[name]
            if known.high > known.low:
                histograms[name] += np.histogram(value, _BINS, (known.low, known.high))[0]
    return Observed(extremes, histograms)


def run_all(
    opened: ort.InferenceSession, names: list[str], x: Feed
) -> Iterator[tuple[str, Array]]:
    """Run one input and yield these tensors by name; the name of an input yields the input."""
    feed = feed_for(opened, x)
    asked = [name for name in names if name not in feed]
    # For an empty list onnxruntime would give every output.
    with step("running the model", "onnxruntime", of_large):
        computed = dict(zip(asked, run_for(opened, asked, feed) if asked else [], strict=True))
    for name in names:
        yield name, np.asarray(feed[name] if name in feed else computed[name])


def _percentile(percent: float) -> Callable[[Histogram, Range], Range]:
    """Return a function that cuts a range to this percentage, by equal shares at either end."""
    cut = (1 - percent / 100) / 2

    def choose(counts: Histogram, extremes: Range) -> Range:
        share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
        edges = np.linspace(extremes.low, extremes.high, len(share))
        low, high = edges[share <= cut][-1], edges[share >= 1 - cut][0]
        return Range(float(low), float(high))

    return choose


def _most_alike(counts: Histogram, extremes: Range) -> Range:
    """Return the range whose 256 levels keep the most of the distribution.

    A candidate is the part within some distance from 0; the rest counts to the outermost levels.
    The measure is the Kullback-Leibler divergence of the bins, spread evenly over each level, from
    the bins as they were.
    """
    counts = counts.reshape(_COARSE_BINS, -1).sum(axis=1)
    edges = np.linspace(extremes.low, extremes.high, _COARSE_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    full = Range(min(extremes.low, 0.0), max(extremes.high, 0.0))
    best, least = full, np.inf
    for share in np.linspace(1.0, 1 / 8, _CANDIDATES):
        limit = float(share) * max(-full.low, full.high)
        tried = full.within(-limit, limit)
        inside = (centres >= tried.low) & (centres <= tried.high)
        if not inside.any():  # values far from 0, all of which would be cut off
            break
        step = (tried.high - tried.low) / (_LEVELS - 1)
        levels = np.clip(np.rint((centres - tried.low) / step), 0, _LEVELS - 1).astype(np.int64)
        divergence = _divergence(counts, levels, inside)
        if divergence < least:
            best, least = tried, divergence
    return best.within(extremes.low, extremes.high)


def _divergence(counts: Histogram, levels: NDArray[np.int64], inside: NDArray[np.bool_]) -> float:
    """Compare the bins, with those outside added to the nearest inside, with what levels keep."""
    wanted = np.where(inside, counts, 0.0)
    (held,) = np.nonzero(inside)
    wanted[held[0]] += counts[: held[0]].sum()
    wanted[held[-1]] += counts[held[-1] + 1 :].sum()
    used = inside & (counts > 0)
    total = np.bincount(levels[used], counts[used], _LEVELS)
    bins = np.bincount(levels[used], minlength=_LEVELS)
    kept = np.where(used, total[levels] / np.maximum(bins[levels], 1), 0.0)
    p, q = wanted / wanted.sum(), np.maximum(kept / max(kept.sum(), 1.0), _NEVER)
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def known_ranges(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Narrow ranges by what is known without calibration.

    A tensor never leaves the range of its operator: hard-swish gives nothing below -3/8, a mean
    and a squeeze-and-excite nothing beyond their input. And it need not hold values that all of
    its readers treat alike: hard-swish gives 0 for everything below -3, a clamp its bound for
    everything beyond.

    Only the range of a gate may become wider: it is exactly 0 to 1, so that its step is 1/255
    (1/65535) and its zero point the smallest integer, in every network.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    narrowed = dict(ranges)
    for node in model.graph.node:
        name = node.output[0]
        if name in narrowed:
            bounds = _output_bounds(node, narrowed, constants)
            narrowed[name] = Range(*_GATE) if bounds == _GATE else narrowed[name].within(*bounds)
    seen = seen_bounds(model)
    return {name: bounds.within(*seen.get(name, _ALL)) for name, bounds in narrowed.items()}


_PIXELS = {onnx.TensorProto.UINT8: (0.0, 255.0), onnx.TensorProto.INT8: (-128.0, 127.0)}
_WIDER, _TRIED, _HALF = 1 / 1024, 32, 1e-4
_MOVES_PIXELS = frozenset({"Transpose", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def pixel_ranges(model: onnx.ModelProto) -> dict[str, Range]:
    """Return the ranges of fp32 tensors that hold the whole pixels of an input, moved or shifted.

    Whatever calibration has seen, the steps of pixels are then exactly 1, and no pixel is cut off
    that `shift_to_conv` shifts.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    ranges: dict[str, Range] = {}
    for node in model.graph.node:
        x = node.input[0] if node.input else ""
        if node.op_type in _MOVES_PIXELS and x in kinds:
            kinds[node.output[0]] = kinds[x]
        if node.op_type == "Cast" and kinds.get(x) in _PIXELS:
            ranges[node.output[0]] = Range(*_PIXELS[kinds[x]])
        elif node.op_type in _MOVES_PIXELS and x in ranges:
            ranges[node.output[0]] = ranges[x]
        elif node.op_type == "Conv" and x in ranges:
            shifts = _shifts(node, constants)
            if shifts is not None:
                ranges[node.output[0]] = _apart_from_halves(ranges[x], shifts)
    return ranges


def _shifts(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> NDArray[np.float64] | None:
    """Return what a convolution of each channel by itself adds to it, if it does nothing else."""
    stored = [constants.get(name) for name in node.input[1:]]
    if len(stored) != 2 or stored[0] is None or stored[1] is None:
        return None
    weights, biases = (onnx.numpy_helper.to_array(tensor) for tensor in stored if tensor)
    if weights.shape != (len(biases), 1, 1, 1) or not np.all(weights == 1):
        return None
    return biases.astype(np.float64)


def _apart_from_halves(pixels: Range, shifts: NDArray[np.float64]) -> Range:
    """Return the range of shifted pixels, a little wider where pixels would lie between two steps.

    Halves are rounded to even: all pixels of a mean of 127.5 would lose their last bit.
    """
    low, high = pixels.low + float(shifts.min()), pixels.high + float(shifts.max())
    values = np.arange(pixels.low, pixels.high + 1)[:, None] + shifts
    for wider in 1 + _WIDER * np.arange(_TRIED):
        found = Range(min(low, 0.0) * wider, max(high, 0.0) * wider)
        step = (found.high - found.low) / (_LEVELS - 1)
        if np.abs(values / step % 1 - 0.5).min() > _HALF:
            return found
    return Range(min(low, 0.0), max(high, 0.0))


def seen_bounds(model: onnx.ModelProto) -> dict[str, Bounds]:
    """Return, by tensor, the bounds beyond which no reader tells values apart."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    seen: dict[str, list[Bounds]] = {value.name: [_ALL] for value in model.graph.output}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            seen.setdefault(name, []).append(_ALL if index else _input_bounds(node, constants))
        for name in node.output:
            seen.setdefault(name, [])
    return {
        name: (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else _ALL
        for name, bounds in seen.items()
    }


_ALL: Bounds = (-np.inf, np.inf)
_GATE: Bounds = (0.0, 1.0)
_HARDSWISH_LOWEST = -3 / 8  # at -3/2
_KEEPS_RANGE = frozenset(
    {
        *("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "MaxPool", "Flatten", "Reshape"),
        *("Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"),
    }
)


def _output_bounds(
    node: onnx.NodeProto, ranges: Mapping[str, Range], constants: Mapping[str, onnx.TensorProto]
) -> Bounds:
    """Return the bounds that the output of a node cannot leave."""
    if node.op_type in ("HardSigmoid", "Sigmoid", "Softmax"):
        return _GATE
    if node.op_type == "HardSwish":
        return _HARDSWISH_LOWEST, np.inf
    if node.op_type in ("Relu", "Clip"):
        return _clamp(node, constants)
    if node.op_type in _KEEPS_RANGE and node.input[0] in ranges:
        source = ranges[node.input[0]]
        return source.low, source.high
    if node.op_type == "Mul" and all(name in ranges for name in node.input):
        bounds = [_scaled(ranges[x], ranges[gate]) for x, gate in (node.input, node.input[::-1])]
        return max(low for low, _ in bounds), min(high for _, high in bounds)
    return _ALL


def _scaled(x: Range, gate: Range) -> Bounds:
    """Return the bounds of x times a gate; no bounds if `gate` is no gate."""
    if gate.low < 0 or gate.high > 1:
        return _ALL
    return min(x.low, 0.0), max(x.high, 0.0)


def _input_bounds(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Bounds:
    """Return the bounds beyond which a node's output no longer depends on its first input."""
    if node.op_type == "HardSwish":
        return -3.0, np.inf
    if node.op_type == "HardSigmoid":
        attributes = {a.name: a.f for a in node.attribute}
        alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
        return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else _ALL
    if node.op_type in ("Relu", "Clip"):
        return _clamp(node, constants)
    return _ALL


def _clamp(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Bounds:
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = list(_ALL)
    for index, name in enumerate(node.input[1:3]):
        if name in constants:
            bounds[index] = float(onnx.numpy_helper.to_array(constants[name]).item())
    return bounds[0], bounds[1]
