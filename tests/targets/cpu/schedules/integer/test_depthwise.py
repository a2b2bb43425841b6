"""Depthwise convolution of int8 against exact integers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import depthwise as integer_depthwise
from mbv3c.targets.cpu.schedules.integer.arithmetic import Requantization
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise, Tile
from tests.targets.cpu.schedules.integer.kernels import (
    MACHINES,
    ZEROS,
    Call,
    biases,
    check,
    factors,
    integers,
    outputs,
    rounded,
    table_for,
    weights,
)
from tests.targets.cpu.schedules.kernels import CHANNELS, axes, convolve, nhwc


def call(shape: IntegerDepthwise, tile: Tile, machine: Processor) -> Call:
    down, right, c = shape.vertical, shape.horizontal, shape.channels
    x = integers(shape.batch, c, down.size, right.size)
    w = weights(c, 1, down.taps, right.taps)
    bias, scale = biases(c), factors(c, down.taps * right.taps)
    sums = convolve(x.astype(np.float32) - shape.zero, w, bias, down, right, groups=c)
    shifted = bias - shape.zero * w.reshape(c, -1).sum(1, dtype=np.int64)
    packed = integer_depthwise.pack(shape, machine, w)
    inputs = (nhwc(x), packed, shifted, scale, *table_for(shape.output))
    function = integer_depthwise.generate(shape, tile, machine)
    return Call(function, inputs, rounded(nhwc(sums), scale, shape.output))


@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([1, 2]),
    channels=CHANNELS,
    down=axes(),
    right=axes(),
    zero=ZEROS,
    output=outputs(),
    data=st.data(),
)
def test_any_shape_and_tile(
    batch: int,
    channels: int,
    down: Axis,
    right: Axis,
    zero: int,
    output: Requantization,
    data: st.DataObject,
) -> None:
    shape = IntegerDepthwise(batch, channels, down, right, zero, output)
    tiles = [data.draw(st.sampled_from(integer_depthwise.legal(shape, one))) for one in MACHINES]
    check([call(shape, tile, one) for tile, one in zip(tiles, MACHINES, strict=True)])
