"""Pareto fronts: which of many networks no other one beats in everything that counts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbv3c.accuracy.tally import Interval
from mbv3c.errors import UsageError
from mbv3c.figures import figure, inline_panels, label_text


@dataclass(frozen=True)
class Axis:
    """One of the things that count.

    Attributes:
        key: its key among the values of a point.
        label: its name, with the unit.
        higher_is_better: whether more of it is better, as of accuracy; costs are better low.
        shown: the format of its values in tables.
        scale: factor by which values are multiplied where they are shown.
    """

    key: str
    label: str
    higher_is_better: bool = False
    shown: str = ",.0f"
    scale: float = 1.0

    def text(self, value: float) -> str:
        """Return a value as tables have it."""
        return format(value * self.scale, self.shown)


ACCURACY = Axis("accuracy", "accuracy, %", higher_is_better=True, shown=".2f", scale=100.0)


_GAP = "  "  # between columns
_UNITS = {
    "us": Axis("us", "time, us", shown=",.1f"),
    "memory": Axis("memory", "memory, KiB", shown=",.1f", scale=1 / 1024),
    "weights": Axis("weights", "weights, KiB", shown=",.1f", scale=1 / 1024),
    "multiply_adds": Axis("multiply_adds", "multiply-adds"),
}


def axis_of(resource: str) -> Axis:
    """Return how a resource is shown."""
    return _UNITS.get(resource, Axis(resource, resource))


@dataclass(frozen=True)
class Point:
    """One network, and what it is worth.

    Attributes:
        name: its name.
        values: for each axis's key the value; an accuracy is a share of 0 to 1. A key that is
            missing is not known.
        series: the kind of network that it is; a picture has a colour for each.
        intervals: 95 % intervals of values, where they are known.
    """

    name: str
    values: Mapping[str, float]
    series: str = ""
    intervals: Mapping[str, Interval] = field(default_factory=dict)


def dominates(first: Point, second: Point, axes: Sequence[Axis]) -> bool:
    """Say whether a point is nowhere worse than another, and somewhere better.

    Raises:
        UsageError: a value of a point is not known.
    """
    pairs = [(_cost(first, axis), _cost(second, axis)) for axis in axes]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(points: Sequence[Point], axes: Sequence[Axis]) -> list[Point]:
    """Return the points that no other one dominates, in the order of the last axis.

    Points with equal values are all kept.

    Raises:
        UsageError: a value of a point is not known.
    """
    best = [
        point for point in points if not any(dominates(other, point, axes) for other in points)
    ]
    return sorted(best, key=lambda point: (_cost(point, axes[-1]), point.name))


def _cost(point: Point, axis: Axis) -> float:
    if axis.key not in point.values:
        raise UsageError(f"{point.name} has no {axis.key!r}: leave it or the axis out")
    value = point.values[axis.key]
    return -value if axis.higher_is_better else value


def front_table(
    points: Sequence[Point],
    axes: Sequence[Axis],
    judged: Sequence[Axis] | None = None,
    width: int | None = None,
) -> list[str]:
    """Return lines of text: a point each, cheapest first; those on the front have a star.

    Args:
        points: the points.
        axes: the columns.
        judged: the axes of the front, the last of which orders the lines; by default all columns
            that every point has a value of.
        width: columns of the terminal: axes that do not fit beside each other follow in another
            table below. None for a file or a pipe, which gets one table.
    """
    known = [axis for axis in axes if all(axis.key in point.values for point in points)]
    judged = known if judged is None else judged
    chosen = {point.name for point in front(points, judged)} if judged else set()
    ordered = sorted(points, key=lambda point: _cost(point, judged[-1])) if judged else points
    rows = [
        (
            "*" if point.name in chosen else "",
            point.name,
            point.series,
            *(cell(point, axis) for axis in axes),
        )
        for point in ordered
    ]
    table = [("", "network", "", *(axis.label for axis in axes)), *rows]
    return [line for part in _parts(table, width) for line in aligned(part, text=_NAMES)]


_NAMES = 3  # the columns of a table that say which network a line is about


def _parts(table: Sequence[Sequence[str]], width: int | None) -> Iterator[list[Sequence[str]]]:
    """Yield a table in parts that are as wide as a terminal; each has the names of networks."""
    wide = [max(map(len, column)) + len(_GAP) for column in zip(*table, strict=True)]
    names, first = sum(wide[:_NAMES]), _NAMES
    while first < len(wide):
        last, taken = first + 1, names + wide[first]
        while last < len(wide) and (width is None or taken + wide[last] - len(_GAP) <= width):
            taken += wide[last]
            last += 1
        yield [(*row[:_NAMES], *row[first:last]) for row in table]
        first = last


def cell(point: Point, axis: Axis) -> str:
    """Return a point's value on an axis in words, with its interval if it has one."""
    if axis.key not in point.values:
        return "-"
    shown = axis.text(point.values[axis.key])
    interval = point.intervals.get(axis.key)
    if interval is None:
        return shown
    return f"{shown} ({axis.text(interval.low)} to {axis.text(interval.high)})"


def aligned(rows: Iterable[Sequence[str]], text: int = 1) -> Iterator[str]:
    """Yield rows as lines whose columns stand under each other.

    Args:
        rows: the cells; every row has as many.
        text: the number of columns that begin under each other; the others end so.
    """
    cells = list(rows)
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = _GAP.join(
            f"{cell:<{width}}" if index < text else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, wide, strict=True))
        )
        yield line.rstrip()


def front_json(points: Sequence[Point], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the points as documented: `name`, `series`, `on_front`, `values`, `intervals`."""
    chosen = {point.name for point in front(points, axes)}
    return [
        {
            "name": point.name,
            "series": point.series,
            "on_front": point.name in chosen,
            "values": dict(point.values),
            "intervals": {
                key: {"share": each.share, "low": each.low, "high": each.high}
                for key, each in point.intervals.items()
            },
        }
        for point in points
    ]


_MARKS = "osD^v<>pPX"
_INCHES = 4.5  # height of the picture in a page
Also = Callable[[Any], None]


def draw_front(
    path: Path,
    points: Sequence[Point],
    axes: tuple[Axis, Axis],
    title: str,
    *,
    force: bool = False,
    also: Also = lambda drawn: None,
) -> None:
    """Draw points, their intervals, and the front as steps.

    Args:
        path: a file whose name ends in .png or .svg.
        points: the points.
        axes: the vertical axis and the horizontal one.
        title: title of the picture.
        force: whether to write over what is there.
        also: function that draws more on the axes.

    Raises:
        UsageError: the file exists, or its name ends in something else.
        BundleError: it cannot be written.
    """
    with figure(path, title, axes[1].label, axes[0].label, force=force) as drawn:
        draw_points(drawn, points, axes, also)


def inline_front(
    points: Sequence[Point],
    axes: tuple[Axis, Axis],
    alt: str,
    also: Also = lambda drawn: None,
) -> str:
    """Return the picture as an SVG element for an HTML page; `alt` says what it shows."""

    def draw(panels: Sequence[Any]) -> None:
        (drawn,) = panels
        drawn.set_xlabel(label_text(axes[1].label))
        drawn.set_ylabel(label_text(axes[0].label))
        drawn.grid(visible=True, alpha=0.3)
        drawn.spines[["top", "right"]].set_visible(False)
        draw_points(drawn, points, axes, also)

    return inline_panels([_INCHES], draw, alt)


def draw_points(
    drawn: Any,
    points: Sequence[Point],
    axes: tuple[Axis, Axis],
    also: Also = lambda drawn: None,
) -> None:
    """Draw points, their intervals, the front as steps, and a legend, on axes that exist.

    Args:
        drawn: axes of matplotlib.
        points: the points.
        axes: the vertical axis and the horizontal one.
        also: function that draws more on the axes.
    """
    y, x = axes
    steps = "steps-post" if y.higher_is_better else "steps-pre"
    best = _shown(front(points, axes), x, y)
    drawn.plot(*best, drawstyle=steps, color="0.6", linewidth=1, zorder=1, label="front")
    for index, series in enumerate(dict.fromkeys(point.series for point in points)):
        of_series = [point for point in points if point.series == series]
        across, up = _shown(of_series, x, y)
        drawn.errorbar(
            across,
            up,
            yerr=_errors(of_series, y),
            fmt=_MARKS[index % len(_MARKS)],
            markersize=5,
            linewidth=1,
            capsize=2,
            label=label_text(series) or None,
        )
        for point, left, top in zip(of_series, across, up, strict=True):
            drawn.annotate(
                label_text(point.name),
                (left, top),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
    also(drawn)
    drawn.legend(fontsize=8)


def _shown(points: Sequence[Point], *axes: Axis) -> list[list[float]]:
    return [[point.values[axis.key] * axis.scale for point in points] for axis in axes]


def _errors(points: Sequence[Point], axis: Axis) -> list[list[float]]:
    """Return how far intervals reach below and above the values, as they are shown."""
    below, above = list[float](), list[float]()
    for point in points:
        value = point.values[axis.key]
        interval = point.intervals.get(axis.key, Interval(value, value, value))
        below.append(max(0.0, value - interval.low) * axis.scale)
        above.append(max(0.0, interval.high - value) * axis.scale)
    return [below, above]
