"""Panels of columns: they cover a matrix once and in order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.lowering.schedules.emit import PAIRED_LOAD_BYTES, offsets, pack, panels, turns, vectors

LANES = st.sampled_from([1, 2, 4, 8, 16])


@given(columns=st.integers(1, 300), lanes=LANES, most=st.integers(1, 20))
def test_panels_cover_all_columns_in_order(columns: int, lanes: int, most: int) -> None:
    runs = panels(columns, lanes, most)
    at = 0
    for run in runs:
        assert run.first == at
        assert 1 <= len(run.widths) <= most
        at += run.count * run.columns
    assert at == columns


@given(columns=st.integers(1, 300), lanes=LANES, most=st.integers(1, 20))
def test_panels_are_even(columns: int, lanes: int, most: int) -> None:
    sizes = [len(run.widths) for run in panels(columns, lanes, most)]
    assert max(sizes) - min(sizes) <= 1


@given(extent=st.integers(0, 300), lanes=LANES)
def test_vectors_cover_their_extent_with_few(extent: int, lanes: int) -> None:
    widths = vectors(extent, lanes)
    assert sum(widths) == extent
    assert all(lanes % width == 0 for width in widths)
    assert sorted(widths, reverse=True) == list(widths)
    assert len(set(widths[extent // lanes :])) == len(widths) - extent // lanes
    assert offsets(widths) == [0, *np.cumsum(widths)[:-1]][: len(widths)]


def test_millions_of_columns_are_cut_at_once() -> None:
    (run,) = panels(4_000_000, 4, 1)
    assert (run.columns, run.count) == (4, 1_000_000)


@given(rows=st.integers(1, 5), columns=st.integers(1, 60), lanes=LANES, most=st.integers(1, 5))
def test_pack_keeps_every_weight_where_the_kernels_read_it(
    rows: int, columns: int, lanes: int, most: int
) -> None:
    matrix = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    runs = panels(columns, lanes, most)
    packed = pack(matrix, runs, axis=1)
    assert packed.size == matrix.size
    for run in runs:
        for i in range(run.count):
            first = run.first + i * run.columns
            panel = packed[first * rows :][: rows * run.columns].reshape(rows, run.columns)
            np.testing.assert_array_equal(panel, matrix[:, first : first + run.columns])
    # Four of each column together, as dot products read them.
    fours = np.stack([matrix] * 4, axis=-1)
    np.testing.assert_array_equal(pack(fours, runs, axis=1), np.repeat(packed, 4))


@given(steps=st.integers(1, 64), step_bytes=st.integers(1, 4096))
def test_a_turn_stays_within_the_reach_of_paired_loads(steps: int, step_bytes: int) -> None:
    found = turns(steps, step_bytes)
    assert steps % found == 0
    assert found == 1 or found * step_bytes <= PAIRED_LOAD_BYTES
