"""Layouts and tiles in memory."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.targets.ethos_u.interpreter.feature_map import FeatureMap
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.program import StreamError

SIZE = 1 << 14


def feature_map(
    height: int, width: int, depth: int, dtype: str, *, bricks: bool, base: int = 32
) -> FeatureMap:
    item = np.dtype(dtype).itemsize
    rounded = -(-depth // 16) * 16
    strides = (
        (width * rounded * item, 16 * item, width * 16 * item)
        if bricks
        else (width * depth * item, depth * item, item)
    )
    return FeatureMap(
        0, (base, 0, 0, 0), height, height, width, depth, strides, 0, np.dtype(dtype), bricks
    )


def values(height: int, width: int, depth: int, dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(height * width * depth)
    return rng.integers(limits.min, limits.max, (height, width, depth), dtype)


def test_pixels_and_bricks() -> None:
    written = values(3, 4, 20, "<i2")
    memory = Memory({0: SIZE})
    feature_map(3, 4, 20, "<i2", bricks=False).write(memory, written)
    raw = memory.load(0, 32, written.nbytes).view("<i2")
    np.testing.assert_array_equal(raw.reshape(3, 4, 20), written)
    memory = Memory({0: SIZE})
    feature_map(3, 4, 32, "<i2", bricks=True).write(
        memory, np.pad(written, ((0, 0), (0, 0), (0, 12)))
    )
    raw = memory.load(0, 32, 3 * 2 * 4 * 16 * 2).view("<i2").reshape(3, 2, 4, 16)
    np.testing.assert_array_equal(raw[:, 0], written[:, :, :16])
    np.testing.assert_array_equal(raw[:, 1, :, :4], written[:, :, 16:])
    assert not raw[:, 1, :, 4:].any()


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40)),
    dtype=st.sampled_from(["<i1", "<u1", "<i2", "<i4"]),
    bricks=st.booleans(),
)
def test_what_is_written_is_read(shape: tuple[int, int, int], dtype: str, bricks: bool) -> None:
    memory, written = Memory({0: SIZE}), values(*shape, dtype)
    place = feature_map(*shape, dtype, bricks=bricks)
    place.write(memory, written)
    np.testing.assert_array_equal(place.read(memory, *shape[:2]), written)


@pytest.mark.parametrize("bricks", [False, True])
def test_tiles(bricks: bool) -> None:
    written = values(5, 6, 20, "<i1")
    whole = feature_map(5, 6, 20, "<i1", bricks=bricks)
    tiled = replace(whole, bases=(0, 4096, 8192, 12288), height0=3, height1=2, width0=4)
    memory = Memory({0: SIZE})
    tiled.write(memory, written)
    np.testing.assert_array_equal(tiled.read(memory, 5, 6), written)
    for base, part in (
        (0, written[:3, :4]),
        (4096, written[:2, 4:]),
        (8192, written[3:, :4]),
        (12288, written[2:, 4:]),
    ):
        one = replace(whole, bases=(base, 0, 0, 0))
        np.testing.assert_array_equal(one.read(memory, *part.shape[:2]), part)


def test_rows_may_run_backwards() -> None:
    written = values(4, 3, 5, "<i1")
    place = feature_map(4, 3, 5, "<i1", bricks=False)
    backwards = replace(place, bases=(32 + 3 * 15, 0, 0, 0), strides=(-15, 5, 1))
    memory = Memory({0: SIZE})
    backwards.write(memory, written)
    np.testing.assert_array_equal(place.read(memory, 4, 3), written[::-1])
    with pytest.raises(StreamError, match="writes bytes -0xd to 0x2f of region 0"):
        replace(backwards, bases=(32, 0, 0, 0)).write(memory, written)


def test_channels_beyond_the_map_are_left_alone() -> None:
    memory = Memory({0: SIZE})
    feature_map(2, 2, 32, "<i1", bricks=True).write(memory, np.full((2, 2, 32), 7))
    feature_map(2, 2, 20, "<i1", bricks=True).write(memory, np.full((2, 2, 20), 9))
    found = feature_map(2, 2, 32, "<i1", bricks=True).read(memory, 2, 2)
    assert (found[:, :, :20] == 9).all()
    assert (found[:, :, 20:] == 7).all()


@pytest.mark.parametrize("bricks", [False, True])
def test_ends_of_a_region(bricks: bool) -> None:
    shape, dtype = (2, 3, 20), "<i2"
    place = feature_map(*shape, dtype, bricks=bricks, base=0)
    # Of bricks: one row, one brick, two pixels and the four channels of the last one.
    size = 192 + 96 + 2 * 32 + 4 * 2 if bricks else 2 * 3 * 20 * 2
    exact = Memory({0: size})
    place.write(exact, np.ones(shape, dtype))
    with pytest.raises(StreamError, match=f"of region 0, which has {size - 1:#x}"):
        place.write(Memory({0: size - 1}), np.ones(shape, dtype))
    with pytest.raises(StreamError, match="nothing was written to"):
        place.read(Memory({0: size}), 2, 3)
