"""Cut an output row into runs whose windows lie inside the map, or cross its edge.

A run that crosses the left or right edge has code of its own, without the taps outside the map;
all other runs share one loop. Rows above and below the map are left out at run time, by one
comparison per row of taps. So padding is neither stored nor multiplied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, Panels


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: how windows lie on the input.

    Attributes:
        size: extent of the input.
        taps: extent of the kernel.
        stride, dilation: stride and dilation as in ONNX.
        before, after: padding at either end.
    """

    size: int
    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def outputs(self) -> int:
        reach = self.dilation * (self.taps - 1) + 1
        return (self.size + self.before + self.after - reach) // self.stride + 1

    def span(self, count: int) -> int:
        """Return how many adjacent inputs the windows of `count` adjacent outputs cover."""
        return (count - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    def source(self, output: Expr, tap: int) -> Expr:
        """Return which input a tap of an output's window reads."""
        return output * self.stride + (tap * self.dilation - self.before)

    def inside(self, output: Expr, tap: int) -> list[Expr]:
        """Return the conditions, if any are needed, under which a tap lies inside."""
        first, last = self.source(0, tap), self.source(self.outputs - 1, tap)
        return self.within(self.source(output, tap), first, last)

    def within(self, at: Expr, first: int, last: int) -> list[Expr]:
        """Return the conditions, if any are needed, under which an input lies inside.

        Args:
            at: index of the input.
            first: the least index that is possible.
            last: the largest index that is possible.
        """
        return [
            *([at >= 0] if first < 0 else []),
            *([at < self.size] if last >= self.size else []),
        ]


def products(down: Axis, right: Axis) -> int:
    """Return how many taps all windows of a map have together."""
    return down.outputs * right.outputs * down.taps * right.taps


@dataclass(frozen=True)
class OutputRun:
    """Adjacent outputs of a row.

    Attributes:
        start: the first output; an expression if several runs share their code.
        count: number of outputs.
        known_start: `start` as a number; None for an expression: then all taps lie inside.
    """

    start: Expr
    count: int
    known_start: int | None

    def skips(self, axis: Axis, output: int, tap: int) -> bool:
        """Say whether a tap of the output'th window falls outside the map."""
        if self.known_start is None:
            return False
        at: int = axis.source(self.known_start + output, tap)
        return at < 0 or at >= axis.size


@dataclass(frozen=True)
class RowLoads:
    """Vectors of adjacent inputs that cover what a run reads of a row.

    A run at the edge loads only what lies inside: its last vector begins early enough.

    Attributes:
        starts: begin of each vector, counted from the first tap of the first window.
        first: the input that the first tap of the first window reads.
    """

    starts: tuple[int, ...]
    first: Expr
    _axis: Axis
    _lanes: int
    _skipped: int

    def place(self, output: int, tap: int) -> tuple[int, int]:
        """Return the vector, and its lane, that a tap of the output'th window reads."""
        at = output * self._axis.stride + tap * self._axis.dilation
        vector = (at - self._skipped) // self._lanes
        return vector, at - self.starts[vector]


def row_loads(axis: Axis, run: OutputRun, lanes: int) -> RowLoads:
    """Cover what a run reads of a row with vectors."""
    first = axis.source(run.start, 0)
    skipped = 0 if run.known_start is None else max(0, -first)
    starts = list(range(skipped, axis.span(run.count), lanes))
    if run.known_start is not None:
        starts = [min(start, axis.size - lanes - first) for start in starts]
    return RowLoads(tuple(starts), first, axis, lanes, skipped)


def for_each_run(
    axis: Axis, count: int, reach_beyond: int, body: Callable[[OutputRun], None]
) -> None:
    """Emit `body` for every run of `count` outputs of a row; the last run may be shorter.

    Args:
        axis: the horizontal axis.
        count: outputs per run.
        reach_beyond: number of inputs beyond its last tap that a run may touch.
        body: emits the code of a run.
    """

    def crosses(start: int) -> bool:
        last = axis.source(start + count - 1, axis.taps - 1) + reach_beyond
        return bool(axis.source(start, 0) < 0 or last >= axis.size)

    starts = range(0, axis.outputs - count + 1, count)
    inner = [start for start in starts if not crosses(start)]
    for start in starts:
        if inner and start == inner[0]:
            with emit.loop(len(inner)) as i:
                at = start + i * count
                body(OutputRun(at, count, start if len(inner) == 1 else None))
        elif start not in inner:
            body(OutputRun(start, count, start))
    rest = axis.outputs % count
    if rest:
        start = axis.outputs - rest
        body(OutputRun(start, rest, start))


# Gives the conditions under which a row of taps lies inside the map, from an output row and a tap.
Conditions = Callable[[Expr, int], list[Expr]]


def for_each_row(
    axis: Axis, body: Callable[[Expr, Conditions], None], *, apart: bool, parallel: bool = False
) -> None:
    """Emit `body` for all output rows, with the comparisons that they need.

    With `apart`, rows whose windows lie inside the map have code of their own without comparisons,
    and all others share one loop: fewer instructions, twice the code.
    """
    rows = range(axis.outputs)
    inner = [
        row
        for row in rows
        if axis.source(row, 0) >= 0 and axis.source(row, axis.taps - 1) < axis.size
    ]
    if not (inner and apart):
        with emit.loop(axis.outputs, parallel=parallel) as row:
            body(row, axis.inside)
        return
    with emit.loop(len(inner), parallel=parallel) as i:
        body(inner[0] + i, lambda row, tap: [])
    outer = axis.outputs - len(inner)
    if outer:
        with emit.loop(outer) as i:
            body(i + T.if_then_else(i < inner[0], 0, len(inner)), axis.inside)


def for_each_tile(
    batch: int,
    axes: tuple[Axis, Axis],
    runs: Sequence[Panels],
    count: int,
    *,
    reach_beyond: int,
    apart: bool,
    parallel: bool,
    body: Callable[[Expr, Expr, Conditions, Panels, Expr, OutputRun], None],
) -> None:
    """Emit `body` for every image, output row, panel of channels and run of outputs.

    Args:
        batch: number of images.
        axes: the vertical and the horizontal axis.
        runs: runs of panels of channels.
        count: outputs per run.
        reach_beyond: number of inputs beyond its last tap that a run may touch.
        apart: whether rows inside the map have code of their own, as in `for_each_row`.
        parallel: whether the output rows are shared between cores.
        body: emits a tile, from image, output row and its conditions, panel, first channel, run.
    """
    down, right = axes

    def row(b: Expr, p: Expr, conditions: Conditions) -> None:
        for panel in runs:
            with emit.loop(panel.count) as j:
                column = panel.first + j * panel.columns
                emit_run = partial(body, b, p, conditions, panel, column)
                for_each_run(right, count, reach_beyond, emit_run)

    with emit.loop(batch) as b:
        for_each_row(down, partial(row, b), apart=apart, parallel=parallel)
