"""What a search or a sweep found as parts of a page, of the documents that they write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mbv3c.accuracy.tally import Interval
from mbv3c.page import (
    EMULATED,
    ESTIMATED,
    MEASURED,
    Html,
    Table,
    element,
    how,
    picture,
    table,
    verdict,
)
from mbv3c.search.front import ACCURACY, Axis, Point, axis_of, cell, inline_front

# What the unit of a cost says about where it comes from.
_KINDS = {"us": MEASURED, "instructions": EMULATED, "cycles": ESTIMATED}
_MORE = ("memory", "weights", "multiply_adds", "parameters")
_MOST_ROWS = 150


@dataclass(frozen=True)
class FrontRow:
    """A network of a front."""

    name: str
    values: dict[str, float]
    series: str = ""
    on_front: bool = False
    intervals: dict[str, Interval] | None = None

    @property
    def point(self) -> Point:
        return Point(self.name, self.values, self.series, self.intervals or {})


@dataclass(frozen=True)
class Budget:
    """What a search was held to."""

    resource: str
    target: float
    weight: float | None = None


@dataclass(frozen=True)
class JudgedOn:
    """The images that decided."""

    part: str
    images: int


@dataclass(frozen=True)
class SearchDocument:
    """What `search --json` prints, as far as a page shows it."""

    aim: Budget
    front: tuple[FrontRow, ...]
    judged_on: JudgedOn
    beats_widths: bool
    verdict: str
    target: str = ""
    precision: str = ""


def search_section(found: SearchDocument, alt: str, folder: str = "") -> Iterator[Html]:
    """Yield the verdict, the front as a picture and its networks as a table.

    Args:
        found: what was found.
        alt: what the picture shows.
        folder: where it was written, for the command that goes on; empty if that is not known.
    """
    yield verdict(found.verdict, passed=found.beats_widths)
    resource = axis_of(found.aim.resource)
    points = [row.point for row in found.front]
    known = [point for point in points if _has(point, ACCURACY, resource)]
    if known:
        target = found.aim.target * resource.scale

        def budget(axes: Any) -> None:
            axes.axvline(target, color="0.5", linewidth=1, linestyle=":", label="budget")

        yield picture(inline_front(known, (ACCURACY, resource), alt, budget), _FRONT)
    on_front = {row.name for row in found.front if row.on_front}
    yield table(_networks(points, resource, on_front))
    images = f"{found.judged_on.images:,} images to {found.judged_on.part} with"
    line = ["search", "--target", found.target, "--precision", found.precision]
    line += ["--images", "DATA", "--budget", "BUDGET", *(["-o", folder] if folder else [])]
    kind = _KINDS.get(found.aim.resource, ESTIMATED)
    where = f"{found.aim.resource} of {found.target or 'the target'}; accuracy on {images}"
    yield how(kind, where, *(line if found.target else ()))


_FRONT = (
    "Accuracy over cost, with 95 % intervals. The steps are the front: no other network here is "
    "better and cheaper. The dotted line is the budget"
)


def _has(point: Point, *axes: Axis) -> bool:
    return all(axis.key in point.values for axis in axes)


def _networks(points: Sequence[Point], resource: Axis, on_front: set[str]) -> Table:
    axes = [ACCURACY, resource, *(axis_of(key) for key in _MORE if key != resource.key)]
    axes = [axis for axis in axes if any(_has(point, axis) for point in points)]
    ordered = sorted(points, key=lambda point: point.values.get(resource.key, 0.0))[:_MOST_ROWS]
    rows = [
        (
            point.name,
            point.series,
            "yes" if point.name in on_front else "",
            *(cell(point, axis) for axis in axes),
        )
        for point in ordered
    ]
    head = ("network", "kind", "on the front", *(axis.label for axis in axes))
    return Table("The networks, the cheapest first", head, rows, numbers=True, texts=2)


@dataclass(frozen=True)
class SweptRow:
    """A combination of a sweep."""

    network: str
    target: str
    precision: str
    kind: str
    resources: dict[str, float]
    accuracy: Interval | None = None
    on_front: bool = False
    refused: str = ""

    @property
    def point(self) -> Point:
        values, intervals = dict(self.resources), dict[str, Interval]()
        if self.accuracy is not None:
            values[ACCURACY.key] = self.accuracy.share
            intervals[ACCURACY.key] = self.accuracy
        return Point(self.network, values, self.precision, intervals)


@dataclass(frozen=True)
class SweepDocument:
    """What `sweep --json` prints, as far as a page shows it."""

    combinations: tuple[SweptRow, ...]


def sweep_section(found: SweepDocument, alt: str, heading: str) -> Iterator[Html]:
    """Yield for each target a picture and a table, and what was left out.

    Args:
        found: what was found.
        alt: what the pictures show; the target's name is added.
        heading: the heading of each target.
    """
    for target in dict.fromkeys(row.target for row in found.combinations):
        some = [row for row in found.combinations if row.target == target and row.resources]
        if not some:
            continue
        points = [row.point for row in some]
        resource = next((axis_of(key) for key in _KINDS if key in points[0].values), None)
        yield element(heading, target)
        if resource is not None:
            yield from _drawn(points, resource, f"{alt}, {target}")
            names = {row.network for row in some if row.on_front}
            yield table(_networks(points, resource, names))
        yield how(some[0].kind or ESTIMATED, f"costs of {target}", "sweep", "GRID.yaml", "--json")
    for row in found.combinations:
        if row.refused:
            said = f"{row.network} on {row.target} in {row.precision} is left out: {row.refused}"
            yield element("p", said, class_="missing")


def _drawn(points: Sequence[Point], resource: Axis, alt: str) -> Iterator[Html]:
    accurate = all(_has(point, ACCURACY, resource) for point in points)
    up = ACCURACY if accurate else axis_of("memory")
    known = [point for point in points if _has(point, up, resource)]
    if known:
        said = (
            f"{up.label} over {resource.label}; the steps are the front of {len(known)} networks"
        )
        yield picture(inline_front(known, (up, resource), alt), said)
