"""Dense convolution on a GPU against numpy in float64."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Convolution
from mbv3c.lowering.schedules.emit import HARD_SWISH, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import convolution
from mbv3c.targets.opencl.schedules.convolution import Tile
from tests.targets.cpu.schedules.kernels import ACTIVATIONS, activate, axes, convolve, nhwc, random
from tests.targets.opencl.schedules.kernels import MALI, Call, check, devices, dtypes


def call(shape: Convolution, tile: Tile) -> Call:
    down, right = shape.vertical, shape.horizontal
    x = random(shape.batch, shape.inputs, down.size, right.size)
    weights = random(shape.outputs, shape.inputs, down.taps, right.taps, seed=1)
    bias = random(shape.outputs, seed=2)
    wanted = activate(convolve(x, weights, bias, down, right), shape.activation)
    given = x if shape.channels_first else nhwc(x)
    function = convolution.generate(shape, tile)
    return Call(function, (given, convolution.pack(weights), bias), (nhwc(wanted),))


@settings(max_examples=4, deadline=None)
@given(
    batch=st.sampled_from([1, 2]),
    inputs=st.sampled_from([1, 3, 5]),
    outputs=st.sampled_from([1, 6, 16, 24]),
    down=axes(),
    right=axes(),
    activation=st.sampled_from(ACTIVATIONS),
    channels_first=st.booleans(),
    dtype=dtypes(),
    gpu=devices(),
    data=st.data(),
)
def test_any_shape_and_tile(
    batch: int,
    inputs: int,
    outputs: int,
    down: Axis,
    right: Axis,
    activation: Activation,
    channels_first: bool,
    dtype: str,
    gpu: Gpu,
    data: st.DataObject,
) -> None:
    shape = Convolution(
        batch, inputs, outputs, down, right, activation, channels_first, dtype, "float32"
    )
    tiles = {
        convolution.default(shape, gpu),
        data.draw(st.sampled_from(convolution.legal(shape, gpu))),
    }
    check([call(shape, tile) for tile in tiles])


@pytest.mark.parametrize("part", range(4))
def test_the_stem(part: int) -> None:
    axis = Axis(32, 3, 2, 1, 1, 1)
    shape = Convolution(1, 3, 16, axis, axis, HARD_SWISH, channels_first=True)
    tiles = {(t.outputs, t.vectors): t for t in convolution.legal(shape, MALI)}
    check([call(shape, tile) for tile in [*tiles.values()][part::4]])
