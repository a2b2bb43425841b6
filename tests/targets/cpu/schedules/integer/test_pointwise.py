"""Products of int8 against exact integers."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import (
    arithmetic as integer,
)
from mbv3c.targets.cpu.schedules.integer import pairs
from mbv3c.targets.cpu.schedules.integer import (
    pointwise as integer_pointwise,
)
from mbv3c.targets.cpu.schedules.integer.gates import Gate
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise, Tile, WidePointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Gated, Requantization
from tests.targets.cpu.schedules.integer.kernels import (
    AVX2,
    AVX512,
    AVX_VNNI,
    HOST,
    MACHINES,
    PLAIN,
    VNNI,
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

SIZES = ((3, 5, 20, True), (7, 16, 8, False), (13, 67, 52, True))


def call(
    shape: IntegerPointwise, tile: Tile, zero: int, machine: Processor, extreme: int | None = None
) -> Call:
    x = integers(shape.rows, shape.inputs)
    w = weights(shape.outputs, shape.inputs)
    if extreme is not None:
        x[:], w[:] = extreme, extreme
    bias, scale = biases(shape.outputs), factors(shape.outputs, shape.inputs)
    sums = (x.astype(np.int64) - zero) @ w.astype(np.int64).T + bias
    shifted = bias + integer.correction(zero, w.sum(1, dtype=np.int64), machine)
    constants = (
        integer_pointwise.pack(shape, tile, machine, w),
        integer_pointwise.pad(shape, machine, shifted),
        integer_pointwise.pad(shape, machine, scale),
        *table_for(shape.output),
    )
    function = integer_pointwise.generate(shape, tile, machine)
    return Call(function, (x, *constants), rounded(sums, scale, shape.output))


@settings(max_examples=5, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 5, 7, 17, 49]),
    inputs=st.sampled_from([4, 5, 7, 16, 21, 40, 67]),
    width=st.sampled_from([1, 3, 8, 10, 16, 21, 31, 40, 67]),
    output=outputs(),
    zero=ZEROS,
    data=st.data(),
)
def test_any_shape_and_tile(
    rows: int, inputs: int, width: int, output: Requantization, zero: int, data: st.DataObject
) -> None:
    shape = IntegerPointwise(rows, inputs, width, output)
    assert integer_pointwise.covers(shape)
    tiles = [data.draw(st.sampled_from(integer_pointwise.legal(shape, one))) for one in MACHINES]
    check([call(shape, tile, zero, one) for tile, one in zip(tiles, MACHINES, strict=True)])


@WITHOUT_AVX2
@pytest.mark.parametrize(
    "machine", [AVX2, AVX512, AVX_VNNI, VNNI], ids=["avx2", "avx512", "avx-vnni", "vnni"]
)
@pytest.mark.usefixtures("standing_in")
def test_products_of_x86(machine: Processor) -> None:
    """An odd number of inputs, sums that fill half a register, rests of panels, the largest."""
    if machine is not AVX2:  # standing in takes LLVM long
        shape = IntegerPointwise(3, 37, 20, Requantization(-3))
        tiles = integer_pointwise.legal(shape, machine)
        chosen = [next(one for one in tiles if one.rows_outer == order) for order in (False, True)]
        check([call(shape, tile, 31, machine) for tile in chosen])
        return
    shapes = [
        IntegerPointwise(rows, inputs, outputs, Requantization(-3, small=small))
        for rows, inputs, outputs, small in (
            (3, 5, 20, True),
            (7, 16, 8, False),
            (13, 67, 52, True),
        )
    ]
    calls = []
    for shape in shapes:
        for order in (False, True):
            tiles = [
                one for one in integer_pointwise.legal(shape, machine) if one.rows_outer == order
            ]
            calls.append(call(shape, tiles[-1], 31, machine))
        calls.append(call(shape, integer_pointwise.default(shape, machine), -128, machine))
    largest = IntegerPointwise(2, 501, 12, Requantization(0))
    tile = integer_pointwise.default(largest, machine)
    calls += [call(largest, tile, 0, machine, extreme) for extreme in (-128, 127)]
    check(calls)


@WITHOUT_AVX2
def test_the_largest_sums_of_pairs_do_not_saturate() -> None:
    """All of x is -128 and weights are ±127: sums of two products that int16 does not hold."""
    shape = IntegerPointwise(8, 64, 16, Requantization(0))
    x, w = np.full((8, 64), -128, np.int8), np.full((16, 64), 127, np.int8)
    x[4:], w[8:] = 127, -128
    scale = np.full(16, 2.0**-14, np.float32)
    tile = integer_pointwise.default(shape, AVX2)
    constants = (
        integer_pointwise.pack(shape, tile, AVX2, w),
        integer_pointwise.pad(shape, AVX2, np.zeros(16, np.int32)),
        integer_pointwise.pad(shape, AVX2, scale),
    )
    function = integer_pointwise.generate(shape, tile, AVX2)
    sums = x.astype(np.int64) @ w.astype(np.int64).T
    assert np.abs(sums).max() == 64 * 128 * 128
    check([Call(function, (x, *constants), rounded(sums, scale, shape.output))])


def test_weights_of_int8_are_stored_as_int8() -> None:
    shape, wide = (
        IntegerPointwise(49, 40, 24, Requantization(0)),
        WidePointwise(49, 40, 24, Requantization(0)),
    )
    drawn = weights(24, 40)
    for machine in (AVX2, AVX512, AVX_VNNI, VNNI):
        tile = integer_pointwise.default(shape, machine)
        packed = integer_pointwise.pack(shape, tile, machine, drawn)
        stored = integer_pointwise.generate(shape, tile, machine).params[1]
        assert (str(stored.dtype), packed.size) == ("int8", drawn.size)
    nine = integer_pointwise.generate(wide, integer_pointwise.default(wide, AVX2), AVX2)
    assert str(nine.params[1].dtype) == "int16"


def test_rows_that_are_too_long_for_the_stack_come_in_parts() -> None:
    shape = IntegerPointwise(1, 60_003, 4, Requantization(0))
    tiles = integer_pointwise.legal(shape, AVX2)
    assert not [tile for tile in tiles if tile.rows_outer]
    tile = integer_pointwise.default(shape, AVX2)
    sizes = [
        int(one)
        for one in re.findall(
            r"\(\(?(\d+),\)?, \"int16\"", str(integer_pointwise.generate(shape, tile, AVX2))
        )
    ]
    assert sizes
    assert 2 * max(sizes) <= pairs.MOST_BYTES
    if HOST.vector_bytes >= 32:
        check([call(shape, tile, 3, AVX2)])


@WITHOUT_AVX2
@pytest.mark.parametrize("machine", [AVX2, VNNI], ids=["avx2", "vnni"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.usefixtures("standing_in")
def test_activations_are_computed(machine: Processor, gated: bool) -> None:
    """All results of a hard-swish and a hard-sigmoid, and what lies beyond int8."""
    gate = Gate(0.0131, 0.5, 0.0, 1.0, gated, 0.93 if gated else 240.0, -11)
    shape = IntegerPointwise(400, 4, 20, Gated(-7, -128, 120, gate=gate))
    x = np.zeros((400, 4), np.int8)
    x[:, 0], x[:, 1] = (np.arange(400) - 200).clip(-128, 127), (np.arange(400) // 3 - 66)
    w = np.ones((20, 4), np.int8)
    tile = integer_pointwise.default(shape, machine)
    bias = integer.correction(0, w.sum(1, dtype=np.int64), machine)
    scale = np.linspace(0.5, 40.0, 20).astype(np.float32)
    constants = (
        integer_pointwise.pack(shape, tile, machine, w),
        integer_pointwise.pad(shape, machine, bias),
        integer_pointwise.pad(shape, machine, scale),
    )
    function = integer_pointwise.generate(shape, tile, machine)
    sums = (x.astype(np.int64) @ w.astype(np.int64).T).astype(np.float32) * scale
    wanted = gate.results(np.rint(sums).clip(-121, 127).astype(np.float32))
    assert len(np.unique(wanted)) > 40
    check([Call(function, (x, *constants), wanted)])


def test_no_column_is_written_that_is_no_output() -> None:
    """Of panels that are alike, the last has a column that fills up a group of four."""
    shape = IntegerPointwise(3, 8, 31, Requantization(0))
    check([call(shape, Tile(1, 1, order), 0, PLAIN) for order in (False, True)])


def test_a_wrong_factor_is_seen() -> None:
    shape = IntegerPointwise(5, 16, 8, Requantization(0))
    right = call(shape, integer_pointwise.default(shape, MACHINES[0]), 0, MACHINES[0])
    x, w, bias, scale = right.inputs
    scale = scale * np.where(np.arange(8) == 5, np.float32(1.5), np.float32(1.0))
    try:
        check([Call(right.function, (x, w, bias, scale), right.wanted)])
    except AssertionError:
        return
    raise AssertionError("the check passes anything")
