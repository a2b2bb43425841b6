"""What a tuning database holds for the target of a bundle, over time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import UsageError
from mbv3c.figures import inline_panels
from mbv3c.page import Html, element, how, picture
from mbv3c.report.subject import Subject, kind_of
from mbv3c.targets import backend_for, find_target
from mbv3c.tuning.database import Record
from mbv3c.tuning.plot import LABELS, draw_on, kernel_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES, _MOST_CURVES = 3.6, 60


def short_key(key: str) -> str:
    """Return the kind of a kernel and its sizes, of the key that a database has."""
    try:
        fields = parse_json(key)
    except Refused:
        return key
    if not isinstance(fields, dict):
        return key
    kind = str(fields.pop("kind", "kernel"))
    plain = {name: value for name, value in fields.items() if isinstance(value, int | str)}
    sizes = ", ".join(f"{name} {value}" for name, value in plain.items())
    return f"{kind}: {sizes}" if sizes else kind


def history(subject: Subject, root: Path) -> Iterator[Html]:
    """Yield the best choices of each kernel over time, and what else a database says in words.

    Raises:
        DatabaseError: it is damaged.
    """
    name = subject.bundle.manifest.target.name
    try:
        database = backend_for(subject.bundle).database(root, find_target(name))
    except UsageError as error:
        yield element("p", str(error), class_="missing")
        return
    context = database.records.context()
    if context is None:
        yield element("p", f"{root} has no records for {name}.", class_="missing")
        return
    records = [one for one in database.records.records() if isinstance(one, Record)]
    found = [replace(one, name=short_key(one.name)) for one in kernel_curves(records)]
    if found:

        def draw(panels: "Sequence[Axes]") -> None:
            (axes,) = panels
            draw_on(axes, found[:_MOST_CURVES])
            axes.set_xlabel(LABELS[0])
            axes.set_ylabel(LABELS[1])
            axes.ticklabel_format(axis="y", useOffset=False)
            axes.grid(visible=True, alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if any(curve.saved > 0 for curve in found):
                axes.legend(fontsize=7, frameon=False)

        drawn = inline_panels([_INCHES], draw, f"Tuning history of {subject.name}")
        yield picture(
            drawn,
            f"The least cost of each kernel so far, of all {len(found)} in {root} for {name}, in "
            "other networks, too",
        )
    yield element("pre", "\n".join(database.status()))
    runner = f"{context}"
    kind = kind_of("emulated" if "instructions" in runner or "cycles" in runner else runner)
    yield how(kind, runner, "tune", "--target", name, "--database", str(root), "--status")
