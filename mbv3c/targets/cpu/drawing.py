"""Draw weights and roundings for a contest between candidates of an integer kernel."""

from math import prod, sqrt

import numpy as np

from mbv3c.lowering.plan import Array
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise

Shape = IntegerPointwise | IntegerDepthwise | IntegerConvolution

# Standard deviations.
_INPUTS = 74.0  # of int8 that are equally frequent
_WEIGHTS = 40.0
_OUTPUTS = 45.0  # few rounded sums are cut off


def draw_integers(shape: Shape, processor: Processor, random: np.random.Generator) -> list[Array]:
    """Draw what `CpuKernels` takes: int8 weights, int32 biases, fp32 factors, (a table).

    Rounded sums spread over most of the 256 integers, as those of a calibrated network do. The
    table maps no two integers to one, so that every difference shows.
    """
    extents = _extents(shape)
    outputs, terms = extents[0], prod(extents[1:])
    drawn = random.normal(0.0, _WEIGHTS, extents)
    weights = np.rint(drawn).clip(-127, 127).astype(np.int8)
    sums = weights.reshape(outputs, -1).sum(1, dtype=np.int64)
    spread = _INPUTS * _WEIGHTS * sqrt(terms)
    bias = np.rint(random.normal(0.0, spread / 4, outputs)) + _corrections(shape, sums, processor)
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


def _corrections(shape: Shape, sums: Array, processor: Processor) -> Array:
    """Return what to add to the biases for the inputs' zero point and for uint8 products."""
    if isinstance(shape, IntegerDepthwise):
        return -shape.zero * sums
    zero = shape.zero if isinstance(shape, IntegerConvolution) else 0
    return integer.correction(zero, sums, processor)
