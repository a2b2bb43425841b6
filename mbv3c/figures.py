"""Pictures of measurements, as PNG or SVG."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3c.atomic import new_file
from mbv3c.errors import UsageError
from mbv3c.quoting import for_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (7.2, 4.5)
_DPI = 150
# What would differ from one time to the next: the date, and identifiers of SVG.
_METADATA: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None}}
_SETTINGS: dict[Any, Any] = {"svg.hashsalt": "mbv3c", "font.family": "DejaVu Sans", "font.size": 9}


def check_figure(path: Path, *, force: bool) -> None:
    """Make sure that a picture can be written there, before work begins that would be lost.

    Raises:
        UsageError: the name ends in something else than .png and .svg, or the file exists and
            `force` is not set, or its folder does not exist.
    """
    if path.suffix.lower() not in _METADATA:
        raise UsageError(f"{path}: a picture's name ends in {' or '.join(_METADATA)}")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; write over it with --force, or choose another place")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; make it first")


@contextmanager
def figure(path: Path, title: str, x: str, y: str, *, force: bool = False) -> Iterator["Axes"]:
    """Yield axes to draw on, and write them whole when the block ends without an error.

    The same drawing gives the same bytes. No display is needed, and nothing of matplotlib's
    settings is changed for others.

    Args:
        path: file whose name ends in .png or .svg, which says the format.
        title: title of the picture.
        x: label of the horizontal axis, with its unit.
        y: label of the vertical axis, with its unit.
        force: whether to write over what is there.

    Raises:
        UsageError: as `check_figure` says.
        BundleError: the place cannot be written, or the disk is full.
    """
    with _written(path, [_INCHES[1]], force=force) as (axes,):
        axes.set_title(title, loc="left")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        yield axes


Draw = Callable[["Sequence[Axes]"], None]

# Stands for the colour of the text around a picture; no other part of one has it.
_INK = "#010203"
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def write_panels(path: Path, heights: Sequence[float], draw: Draw, *, force: bool = False) -> None:
    """Write several panels under each other as one picture, whole or not at all.

    Args:
        path: file whose name ends in .png or .svg, which says the format.
        heights: heights of the panels, in inches.
        draw: function that draws on the axes of the panels.
        force: whether to write over what is there.

    Raises:
        UsageError: as `check_figure` says.
        BundleError: the place cannot be written, or the disk is full.
    """
    with _written(path, heights, force=force) as axes:
        draw(axes)


_ID, _USED = re.compile(r' id="([^"]*)"'), re.compile(r'(?:href="#|url\(#)([^")]*)')


def inline_panels(heights: Sequence[float], draw: Draw, alt: str) -> str:
    """Return several panels as an SVG element for an HTML page, in the colour of its text.

    It has no background, and nothing in it refers to another place. Its text is text, and its
    identifiers are no other picture's.

    Args:
        heights: heights of the panels, in inches.
        draw: function that draws on the axes of the panels.
        alt: what the picture shows, for who cannot see it; each picture of a page has another.
    """
    written = StringIO()
    settings = {**_SETTINGS, "svg.hashsalt": ascii(alt), "svg.fonttype": "none"}
    with _panels(heights, {**settings, **dict.fromkeys(_INKED, _INK)}) as (picture, axes):
        draw(axes)
        picture.savefig(written, format="svg", metadata=_NO_METADATA, transparent=True)
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    used = set(_USED.findall(text))
    text = _ID.sub(lambda found: found[0] if found[1] in used else "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{for_page(alt)}"', 1).strip()


# What the font of the pictures has for sure.
_LAST_LETTER, _ELLIPSIS, _UNKNOWN = 0x24F, "…", "\ufffd"


def label_text(name: str, longest: int = 44) -> str:
    """Return a name that came from outside as a picture can show it: literally, not too long."""
    if len(name) > longest:
        half = longest // 2
        name = f"{name[:half]}{_ELLIPSIS}{name[1 - half :]}"
    known = (
        ch if ch.isprintable() and (ord(ch) <= _LAST_LETTER or ch == _ELLIPSIS) else _UNKNOWN
        for ch in name
    )
    return "".join(known).replace("$", r"\$")


@contextmanager
def _written(path: Path, heights: Sequence[float], *, force: bool) -> Iterator["list[Axes]"]:
    """Yield the axes of panels, and write them whole when the block ends without an error."""
    check_figure(path, force=force)
    kind = path.suffix.lower()
    with _panels(heights, _SETTINGS) as (picture, axes):
        yield axes
        with new_file(path, force=force) as temporary:
            picture.savefig(temporary, format=kind.removeprefix("."), metadata=_METADATA[kind])


@contextmanager
def _panels(
    heights: Sequence[float], settings: dict[Any, Any]
) -> Iterator["tuple[Figure, list[Axes]]"]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(settings):
        picture = Figure(figsize=(_INCHES[0], sum(heights)), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(picture)
        ratios = {"height_ratios": list(heights)}
        axes = picture.subplots(len(heights), squeeze=False, gridspec_kw=ratios)
        yield picture, list(axes[:, 0])
