"""Products of int8 against exact integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import (
    arithmetic as integer,
)
from mbv3c.targets.cpu.schedules.integer import (
    pointwise as integer_pointwise,
)
from mbv3c.targets.cpu.schedules.integer.arithmetic import Requantization
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise, Tile
from tests.targets.cpu.schedules.integer.kernels import (
    HOST,
    MACHINES,
    PLAIN,
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


@pytest.mark.skipif(HOST.vector_bytes < 32, reason="this processor has no AVX2")
def test_pairs_of_avx2() -> None:
    """The last of an odd number of inputs, sums that fill half a register, and the largest."""
    plain = replace(PLAIN, vector_bytes=32, registers=16)
    machine = replace(plain, integers="pairs")
    shapes = [IntegerPointwise(3, inputs, 20, Requantization(-3)) for inputs in (5, 16)]
    calls = [call(one, integer_pointwise.default(one, machine), 31, machine) for one in shapes]
    largest = IntegerPointwise(2, 5, 12, Requantization(0))
    tile = integer_pointwise.default(largest, machine)
    calls += [call(largest, tile, 0, machine, extreme) for extreme in (-128, 127)]
    assert all("x86.avx2.pmadd.wd" in str(one.function) for one in calls)
    check(calls)
    written = integer_pointwise.generate(largest, tile, plain)
    assert "x86" not in str(written)  # C11 has none of its instructions


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
