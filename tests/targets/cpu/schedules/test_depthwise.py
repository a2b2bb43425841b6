"""Depthwise convolution against numpy in float64."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Depthwise, pack_depthwise
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, RELU, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import depthwise
from mbv3c.targets.cpu.schedules.depthwise import Tile
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    CHANNELS,
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


def call(shape: Depthwise, tile: Tile, machine: Processor) -> Call:
    down, right = shape.vertical, shape.horizontal
    x = random(shape.batch, shape.channels, down.size, right.size)
    weights = random(shape.channels, 1, down.taps, right.taps, seed=1)
    bias = random(shape.channels, seed=2)
    wanted = activate(
        convolve(x, weights, bias, down, right, groups=shape.channels), shape.activation
    )
    function = depthwise.generate(shape, tile, machine)
    return Call(function, (nhwc(x), pack_depthwise(weights), bias), nhwc(wanted))


@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    channels=CHANNELS,
    down=axes(),
    right=axes(),
    activation=st.sampled_from(ACTIVATIONS),
    machines=machines(),
    data=st.data(),
)
def test_any_shape_and_tile(
    batch: int,
    channels: int,
    down: Axis,
    right: Axis,
    activation: Activation,
    machines: tuple[Processor, ...],
    data: st.DataObject,
) -> None:
    shape = Depthwise(batch, channels, down, right, activation)
    calls = []
    for machine in machines:
        tiles = {
            depthwise.default(shape, machine),
            data.draw(st.sampled_from(depthwise.legal(shape, machine))),
        }
        calls += [call(shape, tile, machine) for tile in tiles]
    check(calls)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_every_legal_tile(machine: Processor, part: int) -> None:
    down, right = Axis(3, 2, 1, 1, 1, 0), Axis(5, 2, 1, 1, 1, 0)
    shape = Depthwise(1, 2 * machine.lanes("float32") + 3, down, right, HARD_SWISH)
    tiles = depthwise.legal(shape, machine)
    assert len(tiles) > 20
    check([call(shape, tile, machine) for tile in tiles[part::3]])


@pytest.mark.parametrize(
    "side",
    [
        Axis(1, 5, 1, 1, 2, 2),  # a map smaller than the kernel
        Axis(2, 5, 1, 2, 4, 4),
        Axis(7, 3, 2, 1, 0, 1),  # TensorFlow's padding
        Axis(8, 5, 2, 1, 1, 2),
        Axis(6, 1, 3, 1, 0, 0),
        Axis(1, 1, 1, 1, 2, 2),  # windows of nothing but padding
        Axis(4, 3, 3, 1, 1, 0),
    ],
)
def test_an_awkward_side(side: Axis) -> None:
    plain = Axis(5, 3, 1, 1, 1, 1)
    shapes = [
        Depthwise(1, 19, *sides, RELU) for sides in ((side, side), (side, plain), (plain, side))
    ]
    check([call(one, depthwise.default(one, NEON), NEON) for one in shapes])


@pytest.mark.parametrize("machine", (*MACHINES, *PARALLEL))
@pytest.mark.parametrize("channels", [1, 3, 16, 72, 960])
@pytest.mark.parametrize("size", [1, 7, 14, 112])
def test_the_default_is_legal(channels: int, size: int, machine: Processor) -> None:
    side = Axis(size, 5, 1, 1, 2, 2)
    shape = Depthwise(1, channels, side, side, LINEAR)
    assert depthwise.default(shape, machine) in depthwise.legal(shape, machine)


@pytest.mark.parametrize("machine", PARALLEL)
def test_several_cores_are_used(machine: Processor) -> None:
    side = Axis(14, 3, 1, 1, 1, 1)
    shape = Depthwise(1, 240, side, side, LINEAR)
    for tile in (Tile(2, 1, rows_outer=True), Tile(2, 1, rows_outer=False)):
        assert "T.parallel" in depthwise.generate(shape, tile, machine).script()


def test_half_precision() -> None:
    sides = (Axis(9, 3, 1, 1, 1, 1), Axis(8, 5, 2, 1, 2, 2))
    shapes = [
        Depthwise(2, channels, *sides, activation, "float16")
        for channels, activation in zip((3, 16, 21, 40), ACTIVATIONS[1:5], strict=True)
    ]
    check([call(one, depthwise.default(one, on), on) for one in shapes for on in MACHINES])


def test_rows_of_an_image_larger_than_the_caches_follow_each_other() -> None:
    def rows_outer(pixels: int, channels: int) -> bool:
        side = Axis(pixels, 3, 1, 1, 1, 1)
        return depthwise.default(Depthwise(1, channels, side, side, LINEAR), NEON).rows_outer

    assert [rows_outer(pixels, 64) for pixels in (56, 112, 224)] == [False, True, True]
    assert not rows_outer(112, 1024)  # the weights of a row are not near
