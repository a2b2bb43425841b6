"""Build a TOSA 1.0 graph of the operations that we need, with Arm's serializer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tosa_serializer as ts
from numpy.typing import ArrayLike, NDArray

from mbv3c.targets.ethos_u.lowering.region import Channel, channels_of

_NUMPY = {ts.DType.INT8: np.int8, ts.DType.INT32: np.int32}
_LEAST_SHIFT, _MOST_SHIFT = 2, 62
_MIDDLE_FACTOR = 3 << 29  # of those from 2^30 to 2^31
INT8, INT32 = ts.DType.INT8, ts.DType.INT32

Multiplier = tuple[int, int]  # factor and right shift


@dataclass(frozen=True)
class TosaTensor:
    """A tensor of the graph; the serializer's own objects do not stay valid as the graph grows.

    Attributes:
        name: unique name in the file.
        shape: N, H, W, C; any shape for a constant.
        dtype: element type, a DType of tosa_serializer.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class ConvolutionGeometry:
    """How a kernel moves over a map.

    Attributes:
        pads: padding at the top, left, bottom and right, as ONNX has it.
        strides: strides down and across.
        dilations: dilations down and across.
    """

    pads: Sequence[int] = (0, 0, 0, 0)
    strides: Sequence[int] = (1, 1)
    dilations: Sequence[int] = (1, 1)


PLAIN = ConvolutionGeometry()


class TosaGraph:
    """A graph. Tensors are named after the layer that is being added; its result has its name.

    Attributes:
        layer: name of the layer that is being added.
        channels: output channels of all convolutions, with the last layer that has each.
        tables: tables of all layers, with the last layer that has each.
    """

    def __init__(self) -> None:
        # TOSA 1.0.0 for good: later ones have no counterpart in vela.
        self._serializer = ts.TosaSerializer("", ts.ConstMode.EMBED, 1, 0, 0, False)
        self._constants = 0
        self._names: dict[str, int] = {}
        self._order: dict[str, int] = {}
        self._kernels: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._biases: dict[tuple[Any, ...], bytes] = {}  # by weights and multipliers
        self.layer = ""
        self.channels: dict[Channel, str] = {}
        self.tables: dict[bytes, str] = {}

    def input(self, name: str, shape: Sequence[int]) -> TosaTensor:
        """Add an input of int8."""
        tensor = TosaTensor(self._unique(name), tuple(shape), INT8)
        self._serializer.addInputTensor(_serialized(tensor))
        return tensor

    def finish(self, outputs: Sequence[TosaTensor]) -> bytes:
        """Return the file."""
        for tensor in outputs:
            self._serializer.addOutputTensor(_serialized(tensor))
        return bytes(self._serializer.serialize())

    def order(self, tensor: TosaTensor) -> int:
        """Return how many tensors were added before a tensor."""
        return self._order[tensor.name]

    def convolution(
        self,
        x: TosaTensor,
        weights: NDArray[np.int8],
        bias: NDArray[np.int32],
        zero_points: int | tuple[int, int],
        geometry: ConvolutionGeometry = PLAIN,
        *,
        depthwise: bool,
    ) -> TosaTensor:
        """Convolve into int32.

        Args:
            x: input of the convolution.
            weights: weights, O, H, W, I; for a depthwise convolution H, W, C, 1.
            bias: bias of each output channel.
            zero_points: zero point of the input, or of the input and of all weights.
            geometry: padding, strides and dilations.
            depthwise: whether the convolution is depthwise.
        """
        pads, strides, dilations = geometry.pads, geometry.strides, geometry.dilations
        kernel = weights.shape[0:2] if depthwise else weights.shape[1:3]
        sizes, padding = [], []
        for axis in (0, 1):
            before, after = int(pads[axis]), int(pads[axis + 2])
            reach = (kernel[axis] - 1) * dilations[axis]
            # TOSA allows no pixels that no window reaches, of the padding or of the map.
            after -= (x.shape[axis + 1] - 1 + before + after - reach) % strides[axis]
            if after < 0:
                x = self.slice(x, axis + 1, 0, x.shape[axis + 1] + after)
                after = 0
            sizes.append((x.shape[axis + 1] - 1 + before + after - reach) // strides[axis] + 1)
            padding += [before, after]
        constants = [self._constant(weights, INT8), self._constant(bias, INT32)]
        zeros = (zero_points, 0) if isinstance(zero_points, int) else zero_points
        constants += [self._constant([zero], INT8) for zero in zeros]
        arguments = (padding, list(strides), list(dilations), False, INT32)
        shape = (x.shape[0], *sizes, len(bias))
        operation = ts.Op.DEPTHWISE_CONV2D if depthwise else ts.Op.CONV2D
        attribute = "DepthwiseConv2dAttribute" if depthwise else "Conv2dAttribute"
        operands = [x, *constants]
        sums = self._add(operation, operands, shape, INT32, "sums", attribute, *arguments)
        by_output: NDArray[Any] = weights.transpose(2, 0, 1, 3) if depthwise else weights
        if zeros[1]:
            by_output = by_output.astype(np.int16) - zeros[1]
        self._kernels[sums.name] = by_output, bias
        return sums

    def rescale(
        self,
        x: TosaTensor,
        scales: ArrayLike,
        zero_in: int,
        zero_out: int,
        dtype: Any = INT8,
        suffix: str = "",
    ) -> TosaTensor:
        """Multiply by a real number, or a number per channel, rounding once, and saturate."""
        pairs = [multiplier(float(scale)) for scale in np.atleast_1d(np.asarray(scales, float))]
        if x.name in self._kernels:
            pairs = self._told_apart(*self._kernels[x.name], pairs)
            each = pairs * (x.shape[3] // len(pairs))
            used = channels_of(*self._kernels[x.name], *zip(*each, strict=True))
            self.channels.update(dict.fromkeys(used, self.layer))
        constants = [
            self._constant([factor for factor, _ in pairs], INT32),
            self._constant([shift for _, shift in pairs], INT8),
            self._constant([zero_in], x.dtype),
            self._constant([zero_out], dtype),
        ]
        attributes = (True, ts.RoundingMode.SINGLE_ROUND, len(pairs) > 1, False, False)
        return self._add(
            ts.Op.RESCALE, [x, *constants], x.shape, dtype, suffix, "RescaleAttribute", *attributes
        )

    def _told_apart(
        self, kernel: NDArray[Any], bias: NDArray[Any], pairs: list[Multiplier]
    ) -> list[Multiplier]:
        """Return multipliers that no convolution with equal weights and another bias has.

        Where weights and multipliers are equal, vela 5.2 takes the bias of one convolution for all
        (`EncodeWeightAndScaleTensor` in its `scheduler.cpp` does not compare biases). So the first
        multiplier changes in its last bits, which is less than fp32 tells apart.
        """
        (factor, shift), *others = pairs
        step = 1 if factor < _MIDDLE_FACTOR else -1
        while True:
            told = [(factor, shift), *others]
            known = self._biases.setdefault(
                (kernel.shape, kernel.tobytes(), *told), bias.tobytes()
            )
            if known == bias.tobytes():
                return told
            factor += step

    def clamp(self, x: TosaTensor, low: int, high: int) -> TosaTensor:
        """Limit int8 values."""
        bounds = [[bound & 0xFF] for bound in (low, high)]
        propagate = ts.NanPropagationMode.PROPAGATE
        return self._add(
            ts.Op.CLAMP, [x], x.shape, INT8, "clamped", "ClampAttribute", *bounds, propagate
        )

    def table(self, x: TosaTensor, values: NDArray[np.int8]) -> TosaTensor:
        """Look every value up in a table."""
        self.tables[values.tobytes()] = self.layer
        operands = [x, self._constant(values, INT8)]
        return self._add(ts.Op.TABLE, operands, x.shape, INT8, "", "TableAttribute")

    def elementwise(self, name: str, a: TosaTensor, b: TosaTensor) -> TosaTensor:
        """Compute MUL or ADD of int32, with broadcasting."""
        shape = [max(pair) for pair in zip(a.shape, b.shape, strict=True)]
        operands = [a, b, *([self._constant([0], INT8)] if name == "MUL" else [])]
        attribute = f"{name.capitalize()}Attribute"
        return self._add(getattr(ts.Op, name), operands, shape, INT32, "wide", attribute)

    def average_pool(
        self,
        x: TosaTensor,
        zero_point: int,
        kernel: Sequence[int],
        strides: Sequence[int],
        suffix: str = "",
    ) -> TosaTensor:
        """Average windows of an int8 map, whose pixels they use up, with the scale of the map."""
        zeros = [self._constant([zero_point], INT8) for _ in range(2)]
        shape = _pooled(x, kernel, strides, [0] * 4)
        geometry = (list(kernel), list(strides), [0] * 4, INT32)
        return self._add(
            ts.Op.AVG_POOL2D, [x, *zeros], shape, INT8, suffix, "AvgPool2dAttribute", *geometry
        )

    def max_pool(
        self, x: TosaTensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
    ) -> TosaTensor:
        """Take the maxima of windows of an int8 map; `pads` are top, bottom, left and right."""
        shape = _pooled(x, kernel, strides, pads)
        geometry = (list(kernel), list(strides), list(pads), ts.NanPropagationMode.PROPAGATE)
        return self._add(ts.Op.MAX_POOL2D, [x], shape, INT8, "", "MaxPool2dAttribute", *geometry)

    def hold(self, x: TosaTensor, factor: int) -> TosaTensor:
        """Repeat every pixel of an int8 map along both axes; `factor` is a power of 2."""
        return self._resize(x, factor, ts.ResizeMode.NEAREST, INT8, "held")

    def interpolate(self, x: TosaTensor, factor: int) -> TosaTensor:
        """Enlarge an int8 map bilinearly, half-pixel, to int32 values times 4 * factor ** 2."""
        return self._resize(x, factor, ts.ResizeMode.BILINEAR, INT32, "sums")

    def _resize(
        self, x: TosaTensor, factor: int, mode: Any, dtype: Any, suffix: str
    ) -> TosaTensor:
        batch, height, width, channels = x.shape
        # In half pixels of the output, whose middle is at (2 * o + 1 - factor) / (2 * factor).
        geometry = [[2 * factor, 2] * 2, [1 - factor] * 2, [factor - 1] * 2]
        operands = [x, *(self._sizes(sizes) for sizes in geometry)]
        shape = (batch, height * factor, width * factor, channels)
        return self._add(ts.Op.RESIZE, operands, shape, dtype, suffix, "ResizeAttribute", mode)

    def slice(self, x: TosaTensor, axis: int, first: int, count: int) -> TosaTensor:
        """Take some rows or columns of an int8 map."""
        start, shape = [0] * 4, list(x.shape)
        start[axis], shape[axis] = first, count
        operands = [x, self._sizes(start), self._sizes(shape)]
        return self._add(ts.Op.SLICE, operands, shape, INT8, "edge", "SliceAttribute")

    def concat(self, parts: Sequence[TosaTensor], axis: int, suffix: str) -> TosaTensor:
        """Put int8 tensors side by side."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self._add(ts.Op.CONCAT, parts, shape, INT8, suffix, "ConcatAttribute", axis)

    def joined(self, parts: Sequence[TosaTensor], axis: int, suffix: str) -> TosaTensor:
        """Put int8 tensors side by side; a single one stays as it is."""
        return parts[0] if len(parts) == 1 else self.concat(parts, axis, suffix)

    def reshape(self, x: TosaTensor, shape: Sequence[int]) -> TosaTensor:
        """Give an int8 tensor another shape; the elements keep their order."""
        operands = [x, self._sizes(shape)]
        return self._add(ts.Op.RESHAPE, operands, shape, INT8, "", "ReshapeAttribute")

    def _add(
        self,
        operation: Any,
        operands: Sequence[TosaTensor],
        shape: Sequence[int],
        dtype: Any,
        suffix: str,
        attribute: str,
        *arguments: Any,
    ) -> TosaTensor:
        attributes = ts.TosaSerializerAttribute()
        getattr(attributes, attribute)(*arguments)
        name = self._unique(f"{self.layer}/{suffix}" if suffix else self.layer)
        block = self._serializer.currRegion.currBasicBlock
        out = TosaTensor(name, tuple(int(size) for size in shape), dtype)
        block.addTensor(out.name, list(out.shape), dtype)
        inputs = [operand.name for operand in operands]
        self._serializer.addOperator(operation, inputs, [out.name], attributes)
        return out

    def _constant(self, values: ArrayLike, dtype: Any) -> TosaTensor:
        array = np.ascontiguousarray(values, _NUMPY[dtype])
        self._constants += 1
        tensor = TosaTensor(f"constant {self._constants}", array.shape, dtype)
        self._serializer.addConst(list(array.shape), dtype, array, tensor.name)
        return tensor

    def _sizes(self, values: Sequence[int]) -> TosaTensor:
        """Add a constant of TOSA's type for shapes."""
        self._constants += 1
        tensor = TosaTensor(f"constant {self._constants}", (len(values),), ts.DType.SHAPE)
        array = np.array(values, np.int64)
        self._serializer.addConst([len(values)], tensor.dtype, array, tensor.name)
        return tensor

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        unique = name if count == 1 else f"{name}#{count}"
        self._order[unique] = len(self._order)
        return unique


def _pooled(
    x: TosaTensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> tuple[int, ...]:
    """Return the shape of what windows that need all pixels make of a map."""
    sizes = [
        (x.shape[axis + 1] + sum(pads[2 * axis : 2 * axis + 2]) - kernel[axis]) // strides[axis]
        + 1
        for axis in (0, 1)
    ]
    return (x.shape[0], *sizes, x.shape[3])


def _serialized(tensor: TosaTensor) -> Any:
    return ts.TosaSerializerTensor(tensor.name, list(tensor.shape), tensor.dtype)


def multiplier(scale: float) -> Multiplier:
    """Return a factor as RESCALE takes it: a multiplier of 31 bits and a right shift.

    Raises:
        ValueError: the factor is too large.
    """
    mantissa, exponent = math.frexp(scale)
    factor, shift = round(mantissa * (1 << 31)), 31 - exponent
    if factor == 1 << 31:
        factor, shift = factor >> 1, shift - 1
    while shift > _MOST_SHIFT:
        factor, shift = factor >> 1, shift - 1
    if shift < _LEAST_SHIFT:
        raise ValueError(f"{scale} is too large to rescale by")
    return factor, shift
