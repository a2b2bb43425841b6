"""Operands of dot products; the kernels run emulated in test_integer_neon.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.schedules.integer import interleaved_depthwise
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from tests.targets.cpu.schedules.integer.kernels import integers, weights


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    dilation=st.sampled_from([1, 2, 3]),
)
def test_every_tap_is_multiplied_once(rows: int, columns: int, dilation: int) -> None:
    down = Axis(40, rows, 1, dilation, 0, 0)
    right = Axis(40, columns, 1, dilation, 0, 0)
    w = weights(5, 1, rows, columns)
    x = integers(rows, right.span(1))  # the rows of the kernel at one place
    packed = interleaved_depthwise.pack(down, right, w).astype(np.int64)
    assert len(packed) == interleaved_depthwise.operands(down, right)
    found = np.zeros(5, np.int64)
    operands = iter(packed)
    for plane in interleaved_depthwise.interleavings(down, right):
        assert len(plane.values) <= GROUP
        for column in plane.columns:
            four = next(operands)
            for at, (row, beyond) in enumerate(plane.values):
                found += four[:, at] * x[row, column * dilation + beyond]
    exact = w[:, 0].astype(np.int64) * x[:, ::dilation]
    np.testing.assert_array_equal(found, exact.sum((1, 2)))


@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(3, 3, 3), (4, 4, 4), (5, 5, 7), (5, 3, 6), (7, 7, 14), (1, 5, 5)],
)
def test_how_many_products_a_window_takes(rows: int, columns: int, count: int) -> None:
    axes = (Axis(14, taps, 1, 1, 0, 0) for taps in (rows, columns))
    assert interleaved_depthwise.operands(*axes) == count
