"""Fill a graph with seeded weights whose signal survives to the logits.

Independent random weights and statistics let the signal of a network this deep die or explode:
the logits then hardly depend on the input, and a parity check over them proves nothing. So the
weights are random, but every statistic is measured, as training would have measured it: the graph
runs layer by layer on a small batch, each BatchNormalization takes the mean and variance that
arrive there, and the layers without one are scaled to a chosen spread. This is layer-sequential
unit-variance initialisation (Mishkin and Matas, "All you need is a good init",
arXiv:1511.06422) with BatchNormalization in the place of its rescaling.
"""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.float64]

# The batch is half white noise, half smooth patterns, each at several contrasts, so that neither
# texture nor shape nor brightness decides alone.
_CONTRASTS = (0.5, 1.0, 1.5)

# A channel that is nearly dead on the batch would be amplified without bound on other inputs.
_VARIANCE_FLOOR = 0.25  # of the layer's mean variance

# Shifts are positive on average: around zero hard-swish is a parabola, and a deep chain of those
# swallows faint inputs and explodes on strong ones.
_SCALE_LOW, _SCALE_HIGH = 0.8, 1.6
_SHIFT_MEAN, _SHIFT_SPREAD = 0.5, 0.5

# Before ReLU6, which a detector has in up to thirteen layers on top of the network and on maps of
# few pixels, they lie nearer to its middle, and no channel is amplified more than the layer is on
# average: rounding errors would otherwise grow several times on the way.
_RELU6_SHIFT_MEAN = 1.5
_RELU6_VARIANCE_FLOOR = 1.0

# Of layers without BatchNormalization, the SE gates above all: before hard-sigmoid most of them
# then lie inside its slope, and some saturate.
_UNNORMALIZED_SPREAD = 1.5
_LOGIT_SPREAD = 1.0  # of layers that no other layer follows

_WEIGHTED = ("Conv", "Gemm", "BatchNormalization")


def initialize(model: onnx.ModelProto, seed: int, side: int) -> None:
    """Give every parameter of a graph a value, in place.

    The values depend on `seed`, on the tensors' names and on `side`, the side of the images on
    which statistics are measured, and on nothing else; constants stay. Measured statistics are
    rounded to 11 significant bits, so that the order in which a machine adds does not show.
    """
    parameters = _Parameters(model, seed)
    values: dict[str, Array] = {model.graph.input[0].name: _calibration_batch(seed, side)}
    needed = _needed(model.graph)
    clipped = {node.input[0] for node in model.graph.node if node.op_type == "Clip"}
    last = _last_readers(model.graph, needed)
    for index, node in enumerate(model.graph.node):
        if node.op_type not in _WEIGHTED and node.output[0] not in needed:
            continue
        x = values[node.input[0]]
        if node.op_type == "BatchNormalization":
            parameters.set_batchnorm(node, x, relu6=node.output[0] in clipped)
        elif node.op_type == "Gemm" and node.output[0] == model.graph.output[0].name:
            parameters.set_logits(node, x)
        elif node.op_type in ("Conv", "Gemm") and len(node.input) == 3:
            final = node.output[0] not in needed
            parameters.set_unnormalized(node, x, _LOGIT_SPREAD if final else _UNNORMALIZED_SPREAD)
        elif node.op_type == "Conv":
            parameters.set_weight(node)
        if node.output[0] in needed:
            inputs = [values[n] if n in values else parameters.get(n) for n in node.input if n]
            values[node.output[0]] = _EVALUATE[node.op_type](node, *inputs)
        for name in node.input:
            if last.get(name) == index:
                values.pop(name, None)
    parameters.store()


def _needed(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors on which a layer with weights depends.

    What follows the last such layer, for example the decoding of boxes, need not be computed.
    """
    needed: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _WEIGHTED or node.output[0] in needed:
            needed.update(node.input)
    return needed


def _last_readers(graph: onnx.GraphProto, needed: set[str]) -> dict[str, int]:
    """Return for every tensor the place of the last node that reads it."""
    return {
        name: index
        for index, node in enumerate(graph.node)
        if node.op_type in _WEIGHTED or node.output[0] in needed
        for name in node.input
    }


class _Parameters:
    """The initialisers of a graph as float64 arrays, channels last where they are images."""

    def __init__(self, model: onnx.ModelProto, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._arrays: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor).astype(np.float64)
            for tensor in model.graph.initializer
        }

    def get(self, name: str) -> Array:
        return self._arrays[name]

    def set_weight(self, node: onnx.NodeProto) -> None:
        """Draw a He-normal weight: variance 2 / fan-in (He et al., arXiv:1502.01852)."""
        name = node.input[1]
        shape = self._arrays[name].shape
        fan_in = int(np.prod(shape[1:]))
        weight = self._random(name).standard_normal(shape) * np.sqrt(2 / fan_in)
        self._arrays[name] = _single(weight)

    def set_batchnorm(self, node: onnx.NodeProto, x: Array, *, relu6: bool) -> None:
        """Take mean and variance from `x` (NHWC); draw scale and shift."""
        shift_mean = _RELU6_SHIFT_MEAN if relu6 else _SHIFT_MEAN
        floor = _RELU6_VARIANCE_FLOOR if relu6 else _VARIANCE_FLOOR
        _, scale, shift, mean, variance = node.input
        channels = x.shape[-1]
        scales = self._random(scale).uniform(_SCALE_LOW, _SCALE_HIGH, (channels,))
        shifts = self._random(shift).normal(shift_mean, _SHIFT_SPREAD, (channels,))
        self._arrays[scale], self._arrays[shift] = _single(scales), _single(shifts)
        self._arrays[mean] = _coarse(x.mean(axis=(0, 1, 2)))
        measured = x.var(axis=(0, 1, 2))
        self._arrays[variance] = _coarse(np.maximum(measured, floor * measured.mean()))

    def set_unnormalized(self, node: onnx.NodeProto, x: Array, spread: float) -> None:
        """Scale a layer without BatchNormalization so that its outputs spread by `spread`.

        The spread is taken over images and channels together. Over images alone, it would blow up
        channels that differ little between images, and rounding errors with them.
        """
        _, weight, bias = node.input
        self.set_weight(node)
        y = _EVALUATE[node.op_type](node, x, self._arrays[weight], 0.0)
        scale = _factor(spread, y.std())
        noise = self._random(bias).normal(0.0, 0.1, self._arrays[bias].shape)
        if (y * scale + noise).max() <= 0:  # a ReLU would swallow a gate of few channels whole
            scale = -scale
        self._arrays[weight] = _single(self._arrays[weight] * _coarse(np.array(scale)))
        self._arrays[bias] = _single(noise)

    def set_logits(self, node: onnx.NodeProto, x: Array) -> None:
        """Centre each logit over the images and scale so that it spreads by 1 on average."""
        self.set_unnormalized(node, x, _LOGIT_SPREAD)
        _, weight, bias = node.input
        y = _EVALUATE[node.op_type](node, x, self._arrays[weight], 0.0)
        scale = _coarse(np.array(_factor(1.0, y.std(axis=0).mean())))
        self._arrays[weight] = _single(self._arrays[weight] * scale)
        self._arrays[bias] = _coarse(self._arrays[bias] - y.mean(axis=0) * scale)

    def store(self) -> None:
        for tensor in self._model.graph.initializer:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            value = self._arrays[tensor.name].astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    def _random(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])


def _factor(wanted: float, spread: np.floating[Any]) -> float:
    """Return what makes values spread as wanted; those that do not spread at all stay."""
    return wanted / float(spread) if spread > 0 else 1.0


def _calibration_batch(seed: int, side: int) -> Array:
    """Return NHWC images: white noise and smooth patterns, one each per contrast."""
    rng = np.random.default_rng([seed, zlib.crc32(b"calibration")])
    contrasts = np.array(_CONTRASTS).reshape(-1, 1, 1, 1)
    noise = rng.standard_normal((len(_CONTRASTS), side, side, 3))
    coarse = rng.standard_normal((len(_CONTRASTS), 8, 8, 3))
    smooth = coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
    return np.concatenate([noise * contrasts, smooth * contrasts])


def _single(x: Array) -> Array:
    """Round to what fp32 can hold."""
    return x.astype(np.float32).astype(np.float64)


def _coarse(x: Array) -> Array:
    """Round to 11 significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2048) / 2048, exponent)


def _conv(node: onnx.NodeProto, x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    """Convolve NHWC `x` with OIHW `weight`, one kernel tap at a time."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    stride_y, stride_x = attributes.get("strides", [1, 1])
    dilation_y, dilation_x = attributes.get("dilations", [1, 1])
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    _, _, kernel_y, kernel_x = weight.shape
    height = (x.shape[1] - (kernel_y - 1) * dilation_y - 1) // stride_y + 1
    width = (x.shape[2] - (kernel_x - 1) * dilation_x - 1) // stride_x + 1
    depthwise = attributes.get("group", 1) > 1
    total: Array | float = bias
    for ky in range(kernel_y):
        for kx in range(kernel_x):
            y0, x0 = ky * dilation_y, kx * dilation_x
            rows = slice(y0, y0 + stride_y * (height - 1) + 1, stride_y)
            columns = slice(x0, x0 + stride_x * (width - 1) + 1, stride_x)
            tap, taps = x[:, rows, columns], weight[:, :, ky, kx]
            total = total + (tap * taps[:, 0] if depthwise else _product(tap, taps.T))
    assert isinstance(total, np.ndarray)
    return total


def _product(x: Array, weight: Array) -> Array:
    """Multiply every pixel by a matrix: in one product, since threads are slow to begin many."""
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], -1)


def _batchnorm(
    node: onnx.NodeProto, x: Array, scale: Array, shift: Array, mean: Array, variance: Array
) -> Array:
    epsilon = float(next(a.f for a in node.attribute if a.name == "epsilon"))
    return (x - mean) / np.sqrt(variance + epsilon) * scale + shift


def _upsample(node: onnx.NodeProto, x: Array, scales: Array) -> Array:
    """Upsample an NHWC map bilinearly by whole factors, pixel centres at half coordinates.

    A single pixel that is resized to a given shape stays single; its users broadcast it.
    """
    if len(node.input) == 4:
        assert x.shape[1:3] == (1, 1)
        return x
    for axis, factor in ((1, int(scales[2])), (2, int(scales[3]))):
        size = x.shape[axis]
        position = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        lower = np.floor(position).astype(int)
        upper = np.minimum(lower + 1, size - 1)
        share = (position - lower).reshape([-1 if i == axis else 1 for i in range(4)])
        x = x.take(lower, axis) * (1 - share) + x.take(upper, axis) * share
    return x


def _concat(node: onnx.NodeProto, *maps: Array) -> Array:
    """Put channels behind each other; a single pixel stands for all of a map."""
    sides = max(x.shape[1:3] for x in maps)
    return np.concatenate([np.broadcast_to(x, (len(x), *sides, x.shape[3])) for x in maps], 3)


# The operators that `mbv3c.graphs.builder` writes, on channels-last arrays.
_EVALUATE: dict[str, Callable[..., Array]] = {
    "Conv": _conv,
    "BatchNormalization": _batchnorm,
    "Gemm": lambda node, x, weight, bias: x @ weight.T + bias,
    "Add": lambda node, x, y: x + y,
    "Mul": lambda node, x, y: x * y,
    "Div": lambda node, x, y: x / y,
    "Clip": lambda node, x, low, high: np.clip(x, low, high),
    "Relu": lambda node, x: np.maximum(x, 0),
    "GlobalAveragePool": lambda node, x: x.mean(axis=(1, 2), keepdims=True),
    # LR-ASPP's windows of 49 pixels reach over every map that calibration sees.
    "AveragePool": lambda node, x: x.mean(axis=(1, 2), keepdims=True),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)),
    "Resize": _upsample,
    "Concat": _concat,
    "Flatten": lambda node, x: x.reshape(x.shape[0], -1),
}
