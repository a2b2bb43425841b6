"""A verdict as pictures, and as a page or a part of one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbv3c import page as pages
from mbv3c.figures import inline_panels, label_text, write_panels
from mbv3c.page import Html, Table, element, picture, table, verdict
from mbv3c.parity.gate.baseline import GateRequest
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.gate.limits import MetricRow, tables
from mbv3c.parity.gate.saved_outputs import Saved
from mbv3c.parity.metrics import errors
from mbv3c.parity.verdict import Check, Pairs, exit_code

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 48
_HISTOGRAM_INCHES = 3.2
_ROW_INCHES, _AROUND_INCHES = 0.26, 1.1
# The scale of colours, in multiples of what is allowed; white is easier to read from _WHITE on.
_LEAST, _MOST, _WHITE = 1e-3, 10.0, 4.0
_COLOURS = ((0.0, "#f2f7fc"), (0.75, "#9ec5e8"), (0.751, "#fdae61"), (1.0, "#a01a12"))


def write_picture(path: Path, pairs: Pairs, blocks: BlockErrors | None) -> None:
    """Write the pictures as one .png or .svg, over what is there.

    Raises:
        UsageError: the name ends in something else, or its folder is not there.
        BundleError: the place cannot be written.
    """
    write_panels(path, _heights(blocks), partial(_draw, pairs, blocks), force=True)


def inline_picture(pairs: Pairs, blocks: BlockErrors | None, alt: str) -> str:
    """Return the pictures as an SVG element for an HTML page; `alt` says what they show."""
    return inline_panels(_heights(blocks), partial(_draw, pairs, blocks), alt)


def inline_blocks(blocks: BlockErrors, allowed: float | None, alt: str) -> str:
    """Return the errors of blocks as an SVG element, coloured by what is allowed of outputs."""
    heights = [_AROUND_INCHES + _ROW_INCHES * len(blocks.blocks)]
    return inline_panels(heights, lambda panels: _heat_map(panels[0], blocks, allowed), alt)


def _heights(blocks: BlockErrors | None) -> list[float]:
    heat = [] if blocks is None else [_AROUND_INCHES + _ROW_INCHES * len(blocks.blocks)]
    return [_HISTOGRAM_INCHES, *heat]


def _draw(pairs: Pairs, blocks: BlockErrors | None, panels: "Sequence[Axes]") -> None:
    _histogram(panels[0], pairs)
    if blocks is not None:
        _heat_map(panels[1], blocks, _allowed(pairs))


def _allowed(pairs: Pairs) -> float | None:
    """Return the least error that is allowed of an output, of range; None where nothing says."""
    allowed = [pair.judged.allowed for row in pairs for pair in row if pair.judged is not None]
    return min((limit for limit in allowed if 0 < limit < np.inf), default=None)


def _limits(pairs: Pairs) -> dict[str, float]:
    """Return the least absolute error that is allowed of each output that has one limit."""
    found: dict[str, float] = {}
    for row in pairs:
        for pair in row:
            reference, judged = pair.reference, pair.judged
            one = reference.answers is None and (
                reference.scale is None or reference.scale.size == 1
            )
            if judged is not None and one and 0 < judged.allowed < np.inf:
                limit = judged.allowed * reference.span
                found[reference.name] = min(limit, found.get(reference.name, limit))
    return {name: limit for name, limit in found.items() if limit > 0}


def _histogram(axes: "Axes", pairs: Pairs) -> None:
    """Draw how many values have which absolute error, per output, all inputs together."""
    from matplotlib.ticker import MaxNLocator

    errors_of = {
        pair.reference.name: np.concatenate(
            [errors(row[place].ours, row[place].reference.output) for row in pairs]
        )
        for place, pair in enumerate(pairs[0])
    }
    positive = np.concatenate([error[error > 0] for error in errors_of.values()])
    axes.set_title("Absolute errors, all inputs together", loc="left")
    axes.set_ylabel("values")
    axes.spines[["top", "right"]].set_visible(False)
    if not positive.size:
        axes.set_axis_off()
        axes.text(0, 0.8, "No value that can be compared differs.", transform=axes.transAxes)
        return
    low, high, limits = float(positive.min()), float(positive.max()), _limits(pairs)
    edges = np.geomspace(low / 1.01, high * 1.01, _BINS + 1)
    for at, (name, error) in enumerate(errors_of.items()):
        counts, _ = np.histogram(error, edges)
        equal = int((error == 0).sum())
        label = f"{label_text(name)} ({equal:,} more equal)"
        axes.stairs(counts, edges, fill=True, alpha=0.6, color=f"C{at}", label=label)
        if name in limits:
            label = f"limit of {label_text(name)}: {limits[name]:.1e}"
            axes.axvline(limits[name], color=f"C{at}", linestyle="--", label=label)
    axes.set_xscale("log")
    axes.set_xlabel("absolute error")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)


def _heat_map(axes: "Axes", blocks: BlockErrors, allowed: float | None) -> None:
    """Draw the error of every block by itself: a line per block, a column per input.

    Colours go by what is allowed of the network's outputs: below it they are pale.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    values: NDArray[np.float64] = np.array(blocks.errors, np.float64)  # None becomes NaN
    drawn = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    seen = drawn[np.isfinite(drawn)]
    limit = allowed or (float(seen.max()) if seen.size else 1.0)
    scale = LogNorm(limit * _LEAST, limit * _MOST, clip=True)
    colours = LinearSegmentedColormap.from_list("allowed", _COLOURS)
    image = axes.imshow(drawn, cmap=colours, norm=scale, aspect="auto")
    for row, column in np.ndindex(values.shape):
        error = float(values[row, column])
        colour: dict[str, Any] = {}
        if np.isfinite(drawn[row, column]):
            colour["color"] = "white" if error > limit * _WHITE else "black"
        axes.text(column, row, _cell(error), ha="center", va="center", fontsize=8, **colour)
    where = label_text(blocks.ran_on)
    axes.set_title(f"Error of what each block by itself hands on, of range\n({where})", loc="left")
    axes.set_xticks(range(values.shape[1]), [f"input {i}" for i in range(values.shape[1])])
    axes.set_yticks(range(len(values)), [label_text(block.name) for block in blocks.blocks])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, label="error of range", pad=0.02)
    if allowed is not None:
        bar.ax.axhline(allowed, color="black", linestyle="--")
        bar.ax.text(0.5, allowed, "limit", ha="center", va="bottom", fontsize=7, color="black")


def _cell(error: float) -> str:
    if np.isnan(error):
        return "-"
    if np.isinf(error):
        return "not finite"
    return "0" if error == 0 else f"{error:.1e}"


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        title: what was verified.
        facts: what it is and where it ran, by name.
        checks: everything that was checked.
        rows: the metrics.
        pairs: the outputs.
        blocks: what blocks by themselves have shown, or why there is no such thing.
    """

    title: str
    facts: Mapping[str, str]
    checks: Sequence[Check]
    rows: Sequence[MetricRow]
    pairs: Pairs
    blocks: BlockErrors | str


def write_page(path: Path, page: Page) -> None:
    """Write a page whole or not at all, over what is there.

    Raises:
        UsageError: its folder is not there.
        BundleError: the place cannot be written.
    """
    pages.write_page(path, pages.page(page.title, "verify", sections(page)))


def sections(page: Page, heading: str = "h2") -> Iterator[Html]:
    """Yield what a page says below its title, each part below such a heading."""
    yield check_verdict(page.checks)
    if page.facts:
        yield table(Table("What was verified", ("", ""), list(page.facts.items())))
    yield element(heading, "Checks")
    yield check_table(page.checks)
    if page.rows:
        yield element(heading, "Metrics")
        yield from metric_tables(page.rows)
    yield element(heading, "Errors")
    blocks = None if isinstance(page.blocks, str) else page.blocks
    yield picture(inline_picture(page.pairs, blocks, f"Errors, {page.title}"), ERRORS)
    yield element("p", BLOCKS if blocks else str(page.blocks))


def metric_tables(rows: Sequence[MetricRow]) -> Iterator[Html]:
    """Yield the metrics of each output as a table, a column for each input."""
    for each in tables(rows):
        head = (each.output, *(f"input {index}" for index in each.inputs))
        lines = [(name, *cells) for name, cells in each.lines]
        caption = f"Errors of {each.output} against onnxruntime, input by input"
        yield table(Table(caption, head, lines, numbers=True))


ERRORS = "How many values of each output err by how much; a broken line is the limit of an output"
BLOCKS = (
    "Every block of the library got the tensors that onnxruntime computes for its inputs, within "
    "an inference, and what its kernels made of them is compared with what onnxruntime has there, "
    "over that tensor's range. An error shows in the block that makes it, and not in those behind."
)


def check_verdict(checks: Sequence[Check]) -> Html:
    """Return in words whether everything that was checked passed."""
    missed = sum(not check.passed for check in checks)
    if not missed:
        number = "the one check" if len(checks) == 1 else f"all of {len(checks)} checks"
        return verdict(f"passed: {number}", passed=True)
    code = exit_code(checks)
    return verdict(f"MISSED: {missed} of {len(checks)} checks (exit code {code})", passed=False)


def check_table(checks: Sequence[Check]) -> Html:
    """Return everything that was checked as a table; what is missed comes first."""
    rows = []
    for row in sorted(checks, key=lambda check: check.passed):
        kind, mark = ("good", "passed") if row.passed else ("bad", "MISSED")
        if row.skipped:
            mark = "not checked"
        rows.append((element("span", mark, class_=kind), row.suite, row.name, row.finding))
    caption = "Everything that was checked; what is missed comes first"
    return table(Table(caption, ("verdict", "of", "check", "seen"), rows, named=False))


SAVED = "Saved outputs say nothing about the blocks of a network."


def write_pictures(
    request: GateRequest,
    saved: Saved,
    checks: Sequence[Check],
    rows: Sequence[MetricRow],
    blocks: BlockErrors | str,
) -> None:
    """Write the pictures and the page that were asked for; `blocks` may say why there are none.

    Raises:
        BundleError: a place cannot be written.
    """
    origin = saved.origin
    if request.plot is not None:
        write_picture(request.plot, saved.pairs, None if isinstance(blocks, str) else blocks)
    if request.html is not None:
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
        facts = {
            "target": f"{origin['target']} {origin['precision']}",
            "ran on": str(origin["ran_on"]),
            "made with": versions,
            "bundle": f"sha256 of its manifest {origin['bundle_sha256']}",
        }
        if origin.get("own_inputs") is not None:
            facts["inputs"] = str(origin["own_inputs"])
        page = Page(str(origin["bundle"]), facts, checks, rows, saved.pairs, blocks)
        write_page(request.html, page)
