"""Runs of outputs: each output once, and no tap outside of the map but those left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from mbv3c.lowering.schedules import windows
from mbv3c.lowering.schedules.windows import Axis, OutputRun, for_each_run, products, row_loads
from tests.targets.cpu.schedules.kernels import axes


@given(axis=axes(), data=st.data())
def test_every_output_once_and_every_tap_inside(axis: Axis, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, axis.outputs))
    outputs: list[int] = []
    for start, run in runs_of(axis, count):
        for i in range(run.count):
            outputs.append(start + i)
            for tap in range(axis.taps):
                at = axis.source(start + i, tap)
                assert run.skips(axis, i, tap) <= (not 0 <= at < axis.size)
                assert run.skips(axis, i, tap) or 0 <= at < axis.size
    assert outputs == list(range(axis.outputs))


@given(axis=axes(), lanes=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_vectors_hold_what_a_run_reads(axis: Axis, lanes: int, data: st.DataObject) -> None:
    if axis.size < lanes:
        return
    count = data.draw(st.integers(1, axis.outputs))
    start = data.draw(st.integers(0, axis.outputs - count))
    run = OutputRun(start, count, start)
    loads = row_loads(axis, run, lanes)
    taps = [(i, tap) for i in range(count) for tap in range(axis.taps)]
    for i, tap in taps:
        if not run.skips(axis, i, tap):
            vector, lane = loads.place(i, tap)
            assert 0 <= lane < lanes
            assert loads.first + loads.starts[vector] + lane == axis.source(start + i, tap)
    read = [axis.source(start + i, tap) for i, tap in taps]
    assert max(read) - min(read) + 1 == axis.span(count)


@given(axis=axes())
def test_a_map_has_its_windows_taps(axis: Axis) -> None:
    assert products(axis, Axis(7, 3, 2, 1, 1, 1)) == axis.outputs * axis.taps * 4 * 3


@given(axis=axes())
def test_rows_are_compared_only_where_they_may_lie_outside(axis: Axis) -> None:
    for tap in range(axis.taps):
        conditions = axis.inside(tirx.Var("p", "int32"), tap)
        positions = [axis.source(p, tap) for p in range(axis.outputs)]
        assert len(conditions) == (min(positions) < 0) + (max(positions) >= axis.size)


@pytest.mark.parametrize(
    ("axis", "outputs"),
    [
        (Axis(224, 3, 2, 1, 1, 1), 112),
        (Axis(224, 3, 2, 1, 0, 1), 112),
        (Axis(7, 5, 1, 1, 2, 2), 7),
        (Axis(14, 5, 1, 2, 4, 4), 14),
        (Axis(1, 1, 1, 1, 0, 0), 1),
    ],
)
def test_outputs(axis: Axis, outputs: int) -> None:
    assert axis.outputs == outputs


def runs_of(axis: Axis, count: int) -> list[tuple[int, OutputRun]]:
    """Return all runs and where they start, with the loop that shares code played out."""
    runs: list[tuple[int, OutputRun]] = []
    played = _PlayedLoop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows.emit, "loop", played)
        for_each_run(axis, count, 0, lambda run: runs.append((run.start, run)))
    unrolled: list[tuple[int, OutputRun]] = []
    for start, run in runs:
        shared = run.known_start is None
        unrolled += [(start + i * count, run) for i in range(played.extent if shared else 1)]
    return unrolled


class _PlayedLoop:
    """Stands for `emit.loop`: gives the first turn and remembers how many there are."""

    extent = 1

    def __call__(self, extent: int) -> "_PlayedLoop":
        self.extent = extent
        return self

    def __enter__(self) -> int:
        return 0

    def __exit__(self, *_: object) -> None:
        pass
