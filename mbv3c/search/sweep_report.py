"""What came of a sweep: a table for each target, JSON, a picture, and the files."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3c.atomic import check_free, new_folder
from mbv3c.errors import UsageError
from mbv3c.figures import write_panels
from mbv3c.jobs.store import Result
from mbv3c.manifest import MANIFEST
from mbv3c.search.front import ACCURACY, Axis, Point, draw_points, front, front_table
from mbv3c.search.kinds import BUNDLE, MODEL
from mbv3c.search.sweep import Combination, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIB = 1 / 1024
_MEMORY = Axis("memory", "memory, KiB", shown=",.1f", scale=_KIB)
_COMMON = (
    _MEMORY,
    Axis("weights", "weights, KiB", shown=",.1f", scale=_KIB),
    Axis("multiply_adds", "multiply-adds"),
    Axis("parameters", "parameters"),
)
_TIME_LABELS = {"us": "microseconds"}
_PANEL_INCHES = 3.6


def lines(swept: Sweep, width: int | None = None) -> list[str]:
    """Return a table for each target, with a star where the front is, and what was refused.

    Args:
        swept: what was found.
        width: columns of the terminal; None for a file or a pipe.
    """
    found: list[str] = []
    for target, some in _by_target(swept):
        points = [_point(one) for one in some]
        axes = (*_accuracy(points), _time(some[0]), *_COMMON)
        kinds = ", ".join(sorted({one.kind for one in some}))
        found += [f"{target} ({kinds}):", *front_table(points, axes, _judged(some), width)]
        found.append("")
    accuracies = {
        (one.accuracy_of, one.part) for one in swept.combinations if one.accuracy is not None
    }
    if not accuracies:
        found.append(
            "no accuracy: seeded weights have none; name --images, and --train-steps to train"
        )
    for of, part in sorted(accuracies):
        what = "the network in fp32" if of == "network" else "the quantized model of the bundle"
        found.append(f"accuracy: of {what}, on the images to {_PARTS[part]} with, 95 % intervals")
    missed = [one for one in swept.combinations if one.bundle and not one.bundle["passed"]]
    found += [f"{_name(one)}: MISSES PARITY" for one in missed]
    found += [f"left out: {text}" for text in _refusals(swept.combinations)]
    return found


_PARTS = {"validation": "validate", "test": "test"}


def document(swept: Sweep) -> dict[str, Any]:
    """Return the documented keys."""
    chosen = {
        (one.target, point.name, point.series)
        for _, some in _by_target(swept)
        if (judged := _judged(some))
        for one in some
        for point in front([_point(each) for each in some], judged)
        if (point.name, point.series) == (one.network, one.precision)
    }
    return {
        "combinations": [
            {
                **asdict(one),
                "on_front": (one.target, one.network, one.precision) in chosen,
            }
            for one in swept.combinations
        ]
    }


def draw(swept: Sweep, path: Path, *, force: bool) -> None:
    """Draw a panel for each target: accuracy over time, or memory over time without accuracy.

    Raises:
        UsageError: the file exists, or its name ends in something else than .png and .svg.
        BundleError: it cannot be written.
    """
    panels = list(_by_target(swept))

    def drawn(axes: "Sequence[Axes]") -> None:
        for each, (target, some) in zip(axes, panels, strict=True):
            points = [_point(one) for one in some]
            y, x = (*_accuracy(points), _MEMORY)[0], _time(some[0])
            each.set_title(target, loc="left")
            each.set_xlabel(f"{x.label}, {some[0].kind}")
            each.set_ylabel(y.label)
            each.grid(visible=True, alpha=0.3)
            draw_points(each, points, (y, x))

    write_panels(path, [_PANEL_INCHES] * max(1, len(panels)), drawn, force=force)


def check_save(path: Path, *, force: bool) -> None:
    """Make sure that `save` can write a folder, before work begins that would be lost.

    Raises:
        UsageError: it exists and `force` is not set, or holds what no sweep has saved.
    """
    check_free(path, force=force)
    if not path.exists():
        return
    others = [] if path.is_dir() else ["no folder"]
    for each in sorted(path.iterdir()) if path.is_dir() else ():
        if not (each.suffix == ".onnx" and each.is_file()) and not (each / MANIFEST).is_file():
            others.append(each.name)
    if others:
        raise UsageError(
            f"{path} is or holds {others[0]}, which no sweep has saved; --force does not delete "
            "it: name another folder"
        )


def save(swept: Sweep, path: Path, *, force: bool) -> None:
    """Write the trained models and the bundles into a folder.

    Raises:
        UsageError: it exists, and `force` is not set.
        BundleError: it cannot be written.
    """
    with new_folder(path, force=force) as folder:
        for name, trained in swept.models.items():
            if trained is not None:
                shutil.copyfile(trained.files[MODEL], folder / f"{_file_name(name)}.onnx")
        for (name, target, precision), bundle in swept.bundles.items():
            place = folder / _file_name(f"{name}-{target.replace(':', '-')}-{precision}")
            _copy(bundle, place)


def _copy(result: Result, folder: Path) -> None:
    for name, path in result.files.items():
        root, _, rest = name.partition("/")
        if root == BUNDLE:
            place = folder / rest
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _file_name(text: str) -> str:
    return text.replace("/", "_")


def _by_target(swept: Sweep) -> Iterator[tuple[str, list[Combination]]]:
    """Yield each target with its combinations that have a cost."""
    for target in dict.fromkeys(one.target for one in swept.combinations):
        some = [one for one in swept.combinations if one.target == target and one.resources]
        if some:
            yield target, some


def _point(one: Combination) -> Point:
    values, intervals = dict(one.resources), {}
    if one.accuracy is not None:
        values[ACCURACY.key] = one.accuracy.share
        intervals[ACCURACY.key] = one.accuracy
    return Point(one.network, values, one.precision, intervals)


def _time(one: Combination) -> Axis:
    return Axis(one.time, _TIME_LABELS.get(one.time, one.time))


def _accuracy(points: Sequence[Point]) -> tuple[Axis, ...]:
    return (ACCURACY,) if any(ACCURACY.key in point.values for point in points) else ()


def _judged(some: Sequence[Combination]) -> list[Axis]:
    """Return what the front is made of: without accuracy, the smallest network would be it."""
    if all(one.accuracy is not None for one in some):
        return [ACCURACY, _time(some[0])]
    return []


def _name(one: Combination) -> str:
    return f"{one.network} on {one.target} in {one.precision}"


def _refusals(combinations: Sequence[Combination]) -> Iterator[str]:
    """Yield why combinations are left out: what several have in common once."""
    reasons: dict[str, list[str]] = {}
    for one in combinations:
        if one.refused:
            reasons.setdefault(one.refused, []).append(_name(one))
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: {reason}"
