"""Kernels with weights in bf16 and int8, against numpy in float64 on what is stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.graphs.narrow import AS_INT8, STORED, as_stored, to_int8
from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, LINEAR, RELU
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import stored, stored_pointwise, stored_squeeze_excite
from mbv3c.targets.cpu.schedules.squeeze_excite import Tile as SqueezeTile
from mbv3c.targets.cpu.schedules.stored_pointwise import StoredPointwise, Tile
from mbv3c.targets.cpu.schedules.stored_squeeze_excite import StoredSqueezeExcite
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    AVX2,
    CHANNELS,
    MACHINES,
    NEON,
    PARALLEL,
    Call,
    activate,
    check,
    machines,
    random,
)


def pointwise(shape: StoredPointwise, tile: Tile, machine: Processor) -> Call:
    x, weights = random(shape.rows, shape.inputs), random(shape.outputs, shape.inputs, seed=1)
    bias, residual = random(shape.outputs, seed=2), random(shape.rows, shape.outputs, seed=3)
    held = as_stored(weights, shape.stored).astype(np.float64)
    y = activate(x.astype(np.float64) @ held.T + bias, shape.activation)
    packed = stored_pointwise.pack(shape, tile, machine, weights)
    function = stored_pointwise.generate(shape, tile, machine)
    if shape.residual:
        return Call(function, (x, *packed, bias, residual), y + residual)
    return Call(function, (x, *packed, bias), y)


def squeeze_excite(shape: StoredSqueezeExcite, tile: SqueezeTile, machine: Processor) -> Call:
    x = random(shape.batch, shape.places, shape.channels)
    w1, b1 = random(shape.squeezed, shape.channels, seed=1), random(shape.squeezed, seed=2)
    w2, b2 = random(shape.channels, shape.squeezed, seed=3), random(shape.channels, seed=4)
    held1, held2 = (as_stored(one, shape.stored).astype(np.float64) for one in (w1, w2))
    reduced = activate(x.astype(np.float64).mean(axis=1) @ held1.T + b1, shape.reduce)
    gates = activate(reduced @ held2.T + b2, shape.gate)
    first, second = (stored_squeeze_excite.pack(shape, tile, machine, w) for w in (w1, w2))
    function = stored_squeeze_excite.generate(shape, tile, machine)
    return Call(function, (x, *first, b1, *second, b2), x * gates[:, None], in_place=True)


@settings(max_examples=4, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 3, 8]),
    inputs=CHANNELS,
    outputs=CHANNELS,
    activation=st.sampled_from(ACTIVATIONS),
    residual=st.booleans(),
    machines=machines(),
    data=st.data(),
)
def test_any_product_and_tile(
    rows: int,
    inputs: int,
    outputs: int,
    activation: object,
    residual: bool,
    machines: tuple[Processor, ...],
    data: st.DataObject,
) -> None:
    calls = []
    for kind in STORED:
        shape = StoredPointwise(rows, inputs, outputs, activation, residual, stored=kind)
        for machine in machines:
            tiles = {
                stored_pointwise.default(shape, machine),
                data.draw(st.sampled_from(stored_pointwise.legal(shape, machine))),
            }
            calls += [pointwise(shape, tile, machine) for tile in tiles]
    check(calls)


@pytest.mark.parametrize("kind", STORED)
def test_every_legal_tile(kind: str) -> None:
    shape = StoredPointwise(2, 9, 107, HARD_SWISH, stored=kind)
    check(
        [
            pointwise(shape, tile, machine)
            for machine in (NEON, AVX2)
            for tile in stored_pointwise.legal(shape, machine)
        ]
    )


def test_several_cores() -> None:
    shapes = [StoredPointwise(1, 40, 300, RELU, stored=kind) for kind in STORED]
    check(
        [
            pointwise(shape, stored_pointwise.default(shape, machine), machine)
            for shape in shapes
            for machine in PARALLEL
        ]
    )


@pytest.mark.parametrize("kind", STORED)
def test_squeeze_excite(kind: str) -> None:
    calls = []
    for batch, places, channels, squeezed in ((2, 5, 67, 21), (1, 49, 40, 16), (1, 1, 3, 1)):
        shape = StoredSqueezeExcite(
            batch, places, channels, squeezed, RELU, HARD_SIGMOID, stored=kind
        )
        for machine in MACHINES:
            tiles = stored_squeeze_excite.legal(shape, machine)
            default = stored_squeeze_excite.default(shape, machine)
            assert default in tiles
            calls += [squeeze_excite(shape, tile, machine) for tile in {default, tiles[-1]}]
    check(calls)


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_default_is_legal(machine: Processor, kind: str) -> None:
    for rows, outputs in ((1, 1), (1, 1000), (9, 24)):
        shape = StoredPointwise(rows, 960, outputs, LINEAR, stored=kind)
        assert stored_pointwise.default(shape, machine) in stored_pointwise.legal(shape, machine)


def test_words_of_int8_are_sums_of_signed_numbers() -> None:
    weights = random(16, 3)
    (run,) = stored.panels(16, 4, AS_INT8, 4)
    packed, _ = stored.pack(weights, [run], 4, AS_INT8)
    integers, _ = to_int8(weights)
    words = packed.view("<i4").reshape(3, 4).astype(np.int64)
    vectors = integers.T.reshape(3, 4, 4).astype(np.int64)
    np.testing.assert_array_equal(words, sum(vectors[:, at] << (8 * at) for at in range(4)))
