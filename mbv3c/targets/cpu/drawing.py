"""Weights and roundings with which candidates of an integer kernel meet in a contest."""

from math import prod, sqrt

import numpy as np

from mbv3c.lowering.plan import Array
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise

Shape = IntegerPointwise | IntegerDepthwise | IntegerConvolution

_INPUTS = 74.0  # standard deviation of int8 drawn from all that there are
_WEIGHTS = 40.0
_OUTPUTS = 45.0  # so that few of the rounded sums are cut off


def draw_integers(shape: Shape, machine: Processor, random: np.random.Generator) -> list[Array]:
    """Draw what `CpuKernels` takes: int8 weights, int32 biases, fp32 factors, (a table).

    Rounded sums spread over most of the 256 integers, as those of a calibrated network do. The
    table maps no two of them to one, so that every difference is seen.
    """
    extents = _extents(shape)
    outputs, terms = extents[0], prod(extents[1:])
    drawn = random.normal(0.0, _WEIGHTS, extents)
    weights = np.rint(drawn).clip(-127, 127).astype(np.int8)
    sums = weights.reshape(outputs, -1).sum(1, dtype=np.int64)
    spread = _INPUTS * _WEIGHTS * sqrt(terms)
    bias = np.rint(random.normal(0.0, spread / 4, outputs)) + _corrections(shape, sums, machine)
    scale = _OUTPUTS / spread * random.uniform(0.75, 1.25, outputs)
    table = random.permutation(np.arange(-128, 128)).astype(np.int8)
    rounding = [bias.astype(np.int32), scale.astype(np.float32)]
    return [weights, *rounding, *([table] if shape.output.lookup else [])]


def _extents(shape: Shape) -> tuple[int, ...]:
    """Return the extents of the weights, as ONNX has them."""
    if isinstance(shape, IntegerPointwise):
        return shape.outputs, shape.inputs
    taps = (shape.vertical.taps, shape.horizontal.taps)
    if isinstance(shape, IntegerDepthwise):
        return shape.channels, 1, *taps
    return shape.outputs, shape.inputs, *taps


def _corrections(shape: Shape, sums: Array, machine: Processor) -> Array:
    """Return what the biases hold of the inputs' zero point and of how they are multiplied."""
    if isinstance(shape, IntegerDepthwise):
        return -shape.zero * sums
    zero = shape.zero if isinstance(shape, IntegerConvolution) else 0
    return integer.correction(zero, sums, machine)
