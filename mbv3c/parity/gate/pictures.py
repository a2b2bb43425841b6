"""Where errors are, as pictures: how many of which size, and in which block they arise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.figures import inline_panels, write_panels
from mbv3c.parity.compare import Pairs
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.metrics import errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 48
_LONGEST = 44
_HISTOGRAM_INCHES = 3.2
_ROW_INCHES, _AROUND_INCHES = 0.26, 1.1
_DARK = 0.6  # of the scale of colours: from here on white is easier to read
# What the font of the pictures has for sure.
_LAST_LETTER, _ELLIPSIS, _UNKNOWN = 0x24F, "…", "\ufffd"


def write_picture(path: Path, pairs: Pairs, blocks: BlockErrors | None) -> None:
    """Write the pictures as one .png or .svg, over what is there.

    Raises:
        UsageError: the name ends in something else, or its folder is not there.
        BundleError: the place cannot be written.
    """
    write_panels(path, _heights(blocks), partial(_draw, pairs, blocks), force=True)


def inline_picture(pairs: Pairs, blocks: BlockErrors | None) -> str:
    """Return the pictures as an SVG element for an HTML page."""
    return inline_panels(_heights(blocks), partial(_draw, pairs, blocks))


def _heights(blocks: BlockErrors | None) -> list[float]:
    heat = [] if blocks is None else [_AROUND_INCHES + _ROW_INCHES * len(blocks.blocks)]
    return [_HISTOGRAM_INCHES, *heat]


def _draw(pairs: Pairs, blocks: BlockErrors | None, panels: "Sequence[Axes]") -> None:
    _histogram(panels[0], pairs)
    if blocks is not None:
        _heat_map(panels[1], blocks)


def _histogram(axes: "Axes", pairs: Pairs) -> None:
    """Draw how many values have which absolute error, per output, all inputs together."""
    from matplotlib.ticker import MaxNLocator

    found = {
        pair.reference.name: np.concatenate(
            [errors(row[place].ours, row[place].reference.output) for row in pairs]
        )
        for place, pair in enumerate(pairs[0])
    }
    positive = np.concatenate([error[error > 0] for error in found.values()])
    axes.set_title("Absolute errors, all inputs together", loc="left")
    axes.set_ylabel("values")
    axes.spines[["top", "right"]].set_visible(False)
    if not positive.size:
        axes.set_axis_off()
        axes.text(0, 0.8, "No value that can be compared differs.", transform=axes.transAxes)
        return
    low, high = float(positive.min()), float(positive.max())
    edges = np.geomspace(low / 1.01, high * 1.01, _BINS + 1)
    for name, error in found.items():
        counts, _ = np.histogram(error, edges)
        equal = int((error == 0).sum())
        axes.stairs(
            counts, edges, fill=True, alpha=0.6, label=f"{_shown(name)} ({equal:,} more equal)"
        )
    axes.set_xscale("log")
    axes.set_xlabel("absolute error")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)


def _heat_map(axes: "Axes", blocks: BlockErrors) -> None:
    """Draw the error of every block by itself: a line per block, a column per input."""
    from matplotlib.colors import LogNorm

    values: NDArray[np.float64] = np.array(blocks.errors, np.float64)  # None becomes NaN
    drawn = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    seen = drawn[np.isfinite(drawn)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (1e-8, 1e-7)
    scale = LogNorm(low, high if high > low else low * 10)
    image = axes.imshow(drawn, cmap="YlOrRd", norm=scale, aspect="auto")
    for row, column in np.ndindex(values.shape):
        error = float(values[row, column])
        colour: dict[str, Any] = {}
        if np.isfinite(drawn[row, column]):
            colour["color"] = "white" if scale(error) > _DARK else "black"
        axes.text(column, row, _cell(error), ha="center", va="center", fontsize=8, **colour)
    where = _shown(blocks.ran_on)
    axes.set_title(f"Error of what each block by itself hands on, of range\n({where})", loc="left")
    axes.set_xticks(range(values.shape[1]), [f"input {i}" for i in range(values.shape[1])])
    axes.set_yticks(range(len(values)), [_shown(block.name) for block in blocks.blocks])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(image, ax=axes, label="error of range", pad=0.02)


def _cell(error: float) -> str:
    if np.isnan(error):
        return "-"
    if np.isinf(error):
        return "not finite"
    return "0" if error == 0 else f"{error:.1e}"


def _shown(name: str) -> str:
    """Return a name that came with a model as a picture can show it: literally, not too long."""
    if len(name) > _LONGEST:
        half = _LONGEST // 2
        name = f"{name[:half]}{_ELLIPSIS}{name[1 - half :]}"
    known = (
        one if one.isprintable() and (ord(one) <= _LAST_LETTER or one == _ELLIPSIS) else _UNKNOWN
        for one in name
    )
    return "".join(known).replace("$", r"\$")
