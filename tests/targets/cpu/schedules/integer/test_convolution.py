"""Dense convolution of int8 against exact integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.cores import CORES, Processor
from mbv3c.targets.cpu.schedules.integer import (
    arithmetic as integer,
)
from mbv3c.targets.cpu.schedules.integer import (
    convolution as integer_convolution,
)
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution, Tile
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from tests.targets.cpu.schedules.integer.kernels import (
    HOST,
    PLAIN,
    SHARED,
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
from tests.targets.cpu.schedules.kernels import axes, convolve, nhwc


def call(shape: IntegerConvolution, channels: int, tile: Tile, machine: Processor) -> Call:
    down, right, n = shape.vertical, shape.horizontal, shape.outputs
    x = integers(shape.batch, channels, down.size, right.size)
    w = weights(n, channels, down.taps, right.taps)
    bias, scale = biases(n), factors(n, channels * down.taps * right.taps)
    sums = convolve(x.astype(np.float32) - shape.zero, w, bias, down, right)
    filled = np.zeros((shape.batch, down.size, right.size, shape.inputs), np.int8)
    filled[..., :channels] = nhwc(x)
    filled[..., channels:] = integers(*filled[..., channels:].shape, seed=5)  # times 0
    total = w.reshape(n, -1).sum(1, dtype=np.int64)
    shifted = bias + integer.correction(shape.zero, total, machine)
    packed = integer_convolution.pack(shape, w)
    inputs = (filled, packed, shifted, scale, *table_for(shape.output))
    function = integer_convolution.generate(shape, tile, machine)
    return Call(function, inputs, rounded(nhwc(sums), scale, shape.output))


@pytest.mark.skipif(
    not integer.has_dot(HOST),
    reason="this processor has no dot products; test_neon.py runs them emulated",
)
@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([1, 2]),
    channels=st.sampled_from([1, 3, 4, 8, 12]),
    width=st.sampled_from([4, 8, 12, 16, 20, 36]),
    down=axes(),
    right=axes(),
    zero=ZEROS,
    output=outputs(),
    data=st.data(),
)
def test_any_shape_and_tile(
    batch: int,
    channels: int,
    width: int,
    down: Axis,
    right: Axis,
    zero: int,
    output: Requantization,
    data: st.DataObject,
) -> None:
    inputs = -(-channels // GROUP) * GROUP
    shape = IntegerConvolution(batch, inputs, width, down, right, zero, output)
    machines = (HOST, SHARED)
    tiles = [data.draw(st.sampled_from(integer_convolution.legal(shape, one))) for one in machines]
    check([call(shape, channels, tile, one) for tile, one in zip(tiles, machines, strict=True)])


def test_what_it_covers() -> None:
    axis, output = Axis(9, 3, 2, 1, 1, 1), Requantization(0)
    dot = CORES["cortex-a76"]
    assert integer_convolution.covers(IntegerConvolution(1, 4, 8, axis, axis, 0, output), dot)
    assert not integer_convolution.covers(IntegerConvolution(1, 4, 6, axis, axis, 0, output), dot)
    assert not integer_convolution.covers(
        IntegerConvolution(1, 4, 8, axis, axis, 0, output), PLAIN
    )
