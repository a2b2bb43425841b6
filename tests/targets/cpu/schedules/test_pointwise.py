"""Pointwise convolution against numpy in float64."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Pointwise
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, RELU
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import pointwise
from mbv3c.targets.cpu.schedules.pointwise import Tile
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    AVX2,
    CHANNELS,
    MACHINES,
    NEON,
    PARALLEL,
    PLACES,
    Call,
    activate,
    check,
    machines,
    random,
)


def call(shape: Pointwise, tile: Tile, machine: Processor) -> Call:
    x, weights = random(shape.rows, shape.inputs), random(shape.outputs, shape.inputs, seed=1)
    bias, residual = random(shape.outputs, seed=2), random(shape.rows, shape.outputs, seed=3)
    y = activate(x.astype(np.float64) @ weights.T + bias, shape.activation)
    packed = pointwise.pack(shape, tile, machine, weights)
    function = pointwise.generate(shape, tile, machine)
    if shape.residual:
        return Call(function, (x, packed, bias, residual), y + residual)
    return Call(function, (x, packed, bias), y)


@settings(max_examples=5, deadline=None)
@given(
    rows=PLACES,
    inputs=CHANNELS,
    outputs=CHANNELS,
    activation=st.sampled_from(ACTIVATIONS),
    residual=st.booleans(),
    machines=machines(),
    data=st.data(),
)
def test_any_shape_and_tile(
    rows: int,
    inputs: int,
    outputs: int,
    activation: object,
    residual: bool,
    machines: tuple[Processor, ...],
    data: st.DataObject,
) -> None:
    shape = Pointwise(rows, inputs, outputs, activation, residual)
    calls = []
    for machine in machines:
        tiles = {
            pointwise.default(shape, machine),
            data.draw(st.sampled_from(pointwise.legal(shape, machine))),
        }
        calls += [call(shape, tile, machine) for tile in tiles]
    check(calls)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_every_legal_tile(machine: Processor, part: int) -> None:
    shape = Pointwise(3, 6, 3 * machine.lanes("float32") + 3, HARD_SWISH, residual=True)
    tiles = pointwise.legal(shape, machine)
    assert len(tiles) > 20
    check([call(shape, tile, machine) for tile in tiles[part::3]])


def test_a_classifier() -> None:
    shape = Pointwise(1, 40, 1001, LINEAR)
    check([call(shape, pointwise.default(shape, one), one) for one in (*MACHINES, *PARALLEL)])


def test_each_activation() -> None:
    shapes = [Pointwise(3, 5, 19, one, residual) for one in ACTIVATIONS for residual in (0, 1)]
    check([call(one, pointwise.default(one, AVX2), AVX2) for one in shapes])


@pytest.mark.parametrize("machine", (*MACHINES, *PARALLEL))
@pytest.mark.parametrize(
    "shape",
    [
        Pointwise(1, 1, 1, LINEAR),
        Pointwise(1, 960, 1280, HARD_SWISH),
        Pointwise(12544, 16, 64, RELU),
        Pointwise(49, 672, 160, LINEAR, residual=True),
        Pointwise(196, 200, 184, HARD_SWISH),
    ],
)
def test_the_default_is_legal(shape: Pointwise, machine: Processor) -> None:
    assert pointwise.default(shape, machine) in pointwise.legal(shape, machine)


def test_a_legal_tile_leaves_registers_for_its_operands() -> None:
    shape = Pointwise(49, 64, 64, LINEAR)
    for tile in pointwise.legal(shape, replace(AVX2, registers=16)):
        assert tile.rows * tile.vectors + min(tile.rows, tile.vectors) < 16


@pytest.mark.parametrize("cores", [1, 2])
def test_several_cores_are_used_where_it_is_worth_it(cores: int) -> None:
    machine = replace(AVX2, cores=cores)
    for rows, worth in ((1, False), (784, True)):
        shape = Pointwise(rows, 40, 120, RELU)
        text = pointwise.generate(shape, pointwise.default(shape, machine), machine).script()
        assert ("T.parallel" in text) == (worth and cores > 1)


@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_half_precision(machine: Processor) -> None:
    sizes = [(5, 3, 21), (12, 40, 24), (3, 96, 67), (2, 100, 8), (7, 200, 16), (1, 277, 40)]
    shapes = [
        Pointwise(*size, activation, residual, "float16")
        for size, activation, residual in zip(
            sizes, ACTIVATIONS[1:], [False, True] * 3, strict=True
        )
    ]
    check([call(shape, pointwise.default(shape, machine), machine) for shape in shapes])


def test_long_sums_in_half_precision_keep_their_digits() -> None:
    """In half precision alone, 1280 sevenths come to 170 instead of 183."""
    shape = Pointwise(1, 1280, 8, LINEAR, dtype="float16")
    tile = pointwise.default(shape, NEON)
    x, weights = np.ones((1, 1280), np.float32), np.full((8, 1280), np.float16(1 / 7), np.float32)
    function = pointwise.generate(shape, tile, NEON)
    packed = pointwise.pack(shape, tile, NEON, weights)
    wanted = x.astype(np.float64) @ weights.T
    check([Call(function, (x, packed, np.zeros(8, np.float32)), wanted)], tolerance=5e-3)


@pytest.mark.parametrize("outputs", [16, 40, 64, 1000])
def test_lanes_of_half_precision_lie_in_the_lower_registers(outputs: int) -> None:
    """`fmla v.8h, v.8h, v.h[i]` takes its lane from v0 to v15 only; rows are loaded ahead."""
    shape = Pointwise(196, 64, outputs, LINEAR, dtype="float16")
    assert all(2 * tile.rows <= 16 for tile in pointwise.legal(shape, NEON))
