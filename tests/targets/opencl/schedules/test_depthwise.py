"""Depthwise convolution on a GPU against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Depthwise, pack_depthwise
from mbv3c.lowering.schedules.emit import HARD_SWISH, RELU, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import depthwise
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap, Tile
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    CHANNELS,
    activate,
    axes,
    convolve,
    nhwc,
    random,
)
from tests.targets.opencl.schedules.kernels import MALI, Call, check, devices, dtypes


def call(one: DepthwiseMap, tile: Tile) -> Call:
    shape = one.shape
    down, right = shape.vertical, shape.horizontal
    x = random(shape.batch, shape.channels, down.size, right.size)
    weights = random(shape.channels, 1, down.taps, right.taps, seed=1)
    bias = random(shape.channels, seed=2)
    convolved = convolve(x, weights, bias, down, right, groups=shape.channels)
    wanted = nhwc(activate(convolved, shape.activation))
    sums = []
    if one.sums:
        runs = depthwise.parts(one, tile) // down.outputs
        missing = runs * tile.outputs - right.outputs
        padded = np.pad(wanted, ((0, 0), (0, 0), (0, missing), (0, 0)))
        split = padded.reshape(shape.batch, down.outputs, runs, tile.outputs, shape.channels)
        sums = [split.sum(axis=3)]
    function = depthwise.generate(one, tile)
    return Call(function, (nhwc(x), pack_depthwise(weights), bias), (wanted, *sums))


@settings(max_examples=4, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    channels=CHANNELS,
    down=axes(),
    right=axes(),
    activation=st.sampled_from(ACTIVATIONS),
    sums=st.booleans(),
    dtype=dtypes(),
    gpu=devices(),
    data=st.data(),
)
def test_any_shape_and_tile(
    batch: int,
    channels: int,
    down: Axis,
    right: Axis,
    activation: Activation,
    sums: bool,
    dtype: str,
    gpu: Gpu,
    data: st.DataObject,
) -> None:
    one = DepthwiseMap(Depthwise(batch, channels, down, right, activation, dtype), sums)
    tiles = {depthwise.default(one, gpu), data.draw(st.sampled_from(depthwise.legal(one, gpu)))}
    check([call(one, tile) for tile in tiles])


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_maps_of_mobilenet_v3(taps: int, stride: int) -> None:
    before = taps // 2
    axis = Axis(14, taps, stride, 1, before, before)
    one = DepthwiseMap(Depthwise(1, 40, axis, axis, HARD_SWISH), sums=True)
    check([call(one, tile) for tile in _one_per_run(one)])


def test_a_run_may_reach_beyond_the_row() -> None:
    axis = Axis(7, 3, 1, 1, 1, 1)
    one = DepthwiseMap(Depthwise(1, 8, axis, axis, RELU), sums=True)
    tiles = [tile for tile in _one_per_run(one) if 7 % tile.outputs]
    assert tiles
    check([call(one, tile) for tile in tiles])


def _one_per_run(one: DepthwiseMap) -> list[Tile]:
    return list({tile.outputs: tile for tile in depthwise.legal(one, MALI)}.values())
