"""Depthwise convolution of int8 against exact integers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import depthwise as integer_depthwise
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise, Tile
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from tests.targets.cpu.schedules.integer.kernels import (
    AVX2,
    MACHINES,
    WITHOUT_AVX2,
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
    rows = (integer_depthwise.arrange(shape, machine, row) for row in (shifted, scale))
    inputs = (nhwc(x), packed, *rows, *table_for(shape.output))
    function = integer_depthwise.generate(shape, tile, machine)
    return Call(function, inputs, rounded(nhwc(sums), scale, shape.output))


@WITHOUT_AVX2
def test_pairs_of_avx2() -> None:
    """Even and odd kernels, one row or column, strides, dilation, and 8 channels that are left."""
    kernels = [
        (Axis(5, 3, 1, 1, 1, 1), Axis(5, 3, 1, 1, 1, 1), 24),
        (Axis(5, 5, 2, 1, 2, 2), Axis(6, 5, 2, 1, 2, 2), 16),
        (Axis(6, 3, 1, 2, 2, 2), Axis(6, 4, 1, 2, 2, 2), 8),
        (Axis(4, 2, 1, 1, 0, 1), Axis(4, 1, 1, 1, 0, 0), 16),
    ]
    calls = []
    for number, (down, right, channels) in enumerate(kernels):
        output = Requantization((-3, 127)[number % 2], lookup=number == 2, small=number == 1)
        shape = IntegerDepthwise(1, channels, down, right, (-128, 127, 3)[number % 3], output)
        calls.append(call(shape, integer_depthwise.default(shape, AVX2), AVX2))
    assert all("pmadd" in str(one.function) for one in calls)
    check(calls)


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
