"""Dense convolution against numpy in float64."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Convolution
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, RELU, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import convolution
from mbv3c.targets.cpu.schedules.convolution import Tile
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    AVX2,
    MACHINES,
    NEON,
    PARALLEL,
    Call,
    activate,
    axes,
    check,
    convolve,
    machines,
    nhwc,
    random,
)


def call(shape: Convolution, tile: Tile, machine: Processor) -> Call:
    down, right = shape.vertical, shape.horizontal
    x = random(shape.batch, shape.inputs, down.size, right.size)
    weights = random(shape.outputs, shape.inputs, down.taps, right.taps, seed=1)
    bias = random(shape.outputs, seed=2)
    wanted = activate(convolve(x, weights, bias, down, right), shape.activation)
    packed = convolution.pack(shape, tile, machine, weights)
    function = convolution.generate(shape, tile, machine)
    return Call(function, (x if shape.channels_first else nhwc(x), packed, bias), nhwc(wanted))


@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    inputs=st.sampled_from([1, 2, 3, 5, 8, 17]),
    outputs=st.sampled_from([1, 3, 8, 16, 21, 24]),
    down=axes(),
    right=axes(),
    activation=st.sampled_from(ACTIVATIONS),
    channels_first=st.booleans(),
    machines=machines(),
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
    machines: tuple[Processor, ...],
    data: st.DataObject,
) -> None:
    shape = Convolution(batch, inputs, outputs, down, right, activation, channels_first)
    machine = data.draw(st.sampled_from(machines))
    tiles = {
        convolution.default(shape, machine),
        data.draw(st.sampled_from(convolution.legal(shape, machine))),
    }
    check([call(shape, tile, machine) for tile in tiles])


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_every_legal_tile(machine: Processor, part: int) -> None:
    down, right = Axis(2, 2, 1, 1, 1, 0), Axis(5, 3, 1, 1, 1, 1)
    outputs = 2 * machine.lanes("float32") + 3
    shape = Convolution(1, 2, outputs, down, right, HARD_SWISH, channels_first=True)
    tiles = convolution.legal(shape, machine)
    assert len(tiles) > 10
    check([call(shape, tile, machine) for tile in tiles[part::3]])


@pytest.mark.parametrize("inputs", [7, 8], ids=["unrolled", "looped"])
@pytest.mark.parametrize("channels_first", [True, False], ids=["nchw", "nhwc"])
def test_channels_unrolled_or_looped(inputs: int, channels_first: bool) -> None:
    down, right = Axis(5, 3, 2, 1, 1, 1), Axis(6, 3, 1, 2, 2, 1)
    shape = Convolution(2, inputs, 21, down, right, RELU, channels_first)
    check([call(shape, convolution.default(shape, one), one) for one in (NEON, AVX2)])


@pytest.mark.parametrize(
    "side",
    [
        Axis(1, 5, 1, 1, 2, 2),  # a map smaller than the kernel
        Axis(7, 3, 2, 1, 0, 1),  # TensorFlow's padding
        Axis(6, 1, 3, 1, 0, 0),
        Axis(1, 1, 1, 1, 2, 2),  # windows of nothing but padding
    ],
)
def test_an_awkward_side(side: Axis) -> None:
    plain = Axis(5, 3, 1, 1, 1, 1)
    shapes = [
        Convolution(1, 3, 5, *sides, LINEAR, channels_first=True)
        for sides in ((side, side), (side, plain), (plain, side))
    ]
    check([call(one, convolution.default(one, AVX2), AVX2) for one in shapes])


@pytest.mark.parametrize("machine", (*MACHINES, *PARALLEL))
@pytest.mark.parametrize("outputs", [1, 16, 24, 1001])
@pytest.mark.parametrize("size", [2, 14, 224])
def test_the_default_is_legal(outputs: int, size: int, machine: Processor) -> None:
    side = Axis(size, 3, 2, 1, 1, 1)
    shape = Convolution(1, 3, outputs, side, side, LINEAR, channels_first=True)
    assert convolution.default(shape, machine) in convolution.legal(shape, machine)


@pytest.mark.parametrize("cores", [1, 2])
def test_several_cores_are_used(cores: int) -> None:
    machine = replace(AVX2, cores=cores)
    side = Axis(224, 3, 2, 1, 1, 1)
    shape = Convolution(1, 3, 16, side, side, LINEAR, channels_first=True)
    text = convolution.generate(shape, Tile(2, 1), machine).script()
    assert ("T.parallel" in text) == (cores > 1)


@pytest.mark.parametrize("machine", [NEON, AVX2], ids=["neon", "avx2"])
def test_long_sums_in_half_precision_keep_their_digits(machine: Processor) -> None:
    """In half precision alone, 1,170 sevenths come to 156 instead of 167."""
    side = Axis(3, 3, 1, 1, 0, 0)
    shape = Convolution(1, 130, 8, side, side, LINEAR, channels_first=False, dtype="float16")
    tile = convolution.default(shape, machine)
    x, weights = np.ones((1, 3, 3, 130), np.float32), np.full((8, 130, 3, 3), np.float16(1 / 7))
    packed = convolution.pack(shape, tile, machine, weights.astype(np.float32))
    function = convolution.generate(shape, tile, machine)
    wanted = np.full((1, 1, 1, 8), 1170 * float(np.float16(1 / 7)))
    check([Call(function, (x, packed, np.zeros(8, np.float32)), wanted)], tolerance=5e-3)


@pytest.mark.parametrize("source", ["float32", "float16"])
@pytest.mark.parametrize("channels_first", [True, False])
def test_half_precision(source: str, channels_first: bool) -> None:
    sides = (Axis(7, 3, 2, 1, 1, 1), Axis(18, 3, 2, 1, 0, 1))
    shapes = [
        Convolution(2, 3, outputs, *sides, activation, channels_first, "float16", source)
        for outputs, activation in ((16, HARD_SWISH), (21, RELU))
    ]
    check([call(one, convolution.default(one, on), on) for one in shapes for on in MACHINES])
