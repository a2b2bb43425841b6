"""The gates of squeeze-and-excitation on a GPU against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.schedules.emit import HARD_SIGMOID, RELU, Activation
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import gates
from mbv3c.targets.opencl.schedules.gates import Gates, Tile
from tests.targets.cpu.schedules.kernels import ACTIVATIONS, CHANNELS, activate, random
from tests.targets.opencl.schedules.kernels import MALI, Call, check, devices, dtypes


def call(shape: Gates, tile: Tile) -> Call:
    sums = random(shape.batch, shape.parts, shape.channels)
    w1, b1 = random(shape.squeezed, shape.channels, seed=1), random(shape.squeezed, seed=2)
    w2, b2 = random(shape.channels, shape.squeezed, seed=3), random(shape.channels, seed=4)
    means = sums.astype(np.float64).sum(axis=1) / shape.places
    reduced = activate(means @ w1.T + b1, shape.reduce)
    wanted = activate(reduced @ w2.T + b2, shape.gate)
    inputs = (sums, gates.pack(w1), b1, gates.pack(w2), b2)
    return Call(gates.generate(shape, tile), inputs, (wanted, means, reduced))


@settings(max_examples=6, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    parts=st.sampled_from([1, 2, 7, 28]),
    channels=CHANNELS,
    squeezed=st.sampled_from([1, 2, 3, 8, 24]),
    reduce=st.sampled_from(ACTIVATIONS),
    gate=st.sampled_from(ACTIVATIONS),
    dtype=dtypes(),
    source=st.sampled_from(["float32", "float16"]),
    gpu=devices(),
    data=st.data(),
)
def test_any_shape_and_work_group(
    batch: int,
    parts: int,
    channels: int,
    squeezed: int,
    reduce: Activation,
    gate: Activation,
    dtype: str,
    source: str,
    gpu: Gpu,
    data: st.DataObject,
) -> None:
    shape = Gates(batch, parts, 49, channels, squeezed, reduce, gate, dtype, source)
    tiles = {gates.default(shape, gpu), data.draw(st.sampled_from(gates.legal(shape, gpu)))}
    check([call(shape, tile) for tile in tiles])


@pytest.mark.parametrize("part", range(3))
def test_more_channels_than_work_items(part: int) -> None:
    shape = Gates(2, 3, 49, 960, 240, RELU, HARD_SIGMOID)
    check([call(shape, tile) for tile in gates.legal(shape, MALI)[part::3]])
