"""A verdict as one HTML page with pictures: no scripts, for light and dark screens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.atomic import new_file
from mbv3c.figures import inline_panels, write_panels
from mbv3c.parity.gate.baseline import GateRequest
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.gate.limits import MetricRow, tables
from mbv3c.parity.gate.saved_outputs import Saved
from mbv3c.parity.metrics import errors
from mbv3c.parity.verdict import Check, Pairs, exit_code
from mbv3c.quoting import for_page

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
    low, high = float(positive.min()), float(positive.max())
    edges = np.geomspace(low / 1.01, high * 1.01, _BINS + 1)
    for name, error in errors_of.items():
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
        ch if ch.isprintable() and (ord(ch) <= _LAST_LETTER or ch == _ELLIPSIS) else _UNKNOWN
        for ch in name
    )
    return "".join(known).replace("$", r"\$")


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --page: #fff; --line: #d5d8dc; --soft: #f3f4f6;
  --good: #126b3a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6eb; --page: #16181c; --line: #3a3f47;
  --soft: #22262c; --good: #6fd39a; --bad: #ff8a80; } }
body { color: var(--ink); background: var(--page); font: 15px/1.45 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .verdict { font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left;
  vertical-align: top; }
thead th { background: var(--soft); } td.number { text-align: right; white-space: nowrap; }
tbody th { font-weight: normal; white-space: pre; }
svg { max-width: 100%; height: auto; }
""".strip()


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
    with new_file(path, force=True) as temporary:
        # What cannot be encoded, half a surrogate in a name, is shown as a question mark.
        temporary.write_text("\n".join(_lines(page)) + "\n", "utf-8", errors="replace")


def _lines(page: Page) -> Iterator[str]:
    title = for_page(page.title)
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}: verify</title>"
    yield f"<style>\n{_STYLE}\n</style>"
    yield "</head>"
    yield "<body>"
    yield f"<h1>{title}</h1>"
    yield _verdict(page.checks)
    yield from _table(("", ""), [(name, [value]) for name, value in page.facts.items()])
    yield from _checks(page.checks)
    yield "<h2>Metrics</h2>"
    for table in tables(page.rows):
        head = (table.output, *(f"input {index}" for index in table.inputs))
        yield from _table(head, table.lines, numbers=True)
    yield "<h2>Errors</h2>"
    blocks = None if isinstance(page.blocks, str) else page.blocks
    yield f'<div class="wide">{inline_picture(page.pairs, blocks)}</div>'
    yield f"<p>{for_page(_BLOCKS if blocks else str(page.blocks))}</p>"
    yield "</body>"
    yield "</html>"


_BLOCKS = (
    "Every block of the library got the tensors that onnxruntime computes for its inputs, within "
    "an inference, and what its kernels made of them is compared with what onnxruntime has there, "
    "over that tensor's range. An error shows in the block that makes it, and not in those behind."
)


def _verdict(checks: Sequence[Check]) -> str:
    missed = sum(not check.passed for check in checks)
    if not missed:
        return f'<p class="verdict good">✓ passed: all of {len(checks)} checks</p>'
    code = exit_code(checks)
    return (
        f'<p class="verdict bad">✗ MISSED: {missed} of {len(checks)} checks (exit code {code})</p>'
    )


def _checks(checks: Sequence[Check]) -> Iterator[str]:
    yield "<h2>Checks</h2>"
    yield '<div class="wide"><table>'
    yield "<thead><tr><th></th><th>of</th><th>check</th><th>seen</th></tr></thead><tbody>"
    for row in sorted(checks, key=lambda check: check.passed):  # what is missed comes first
        kind, mark = ("good", "passed") if row.passed else ("bad", "MISSED")
        if row.skipped:
            mark = "not checked"
        cells = "".join(
            f"<td>{for_page(cell)}</td>" for cell in (row.suite, row.name, row.finding)
        )
        yield f'<tr><td class="{kind}">{mark}</td>{cells}</tr>'
    yield "</tbody></table></div>"


def _table(
    head: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]], *, numbers: bool = False
) -> Iterator[str]:
    yield '<div class="wide"><table>'
    if any(head):
        cells = "".join(f"<th>{for_page(title)}</th>" for title in head)
        yield f"<thead><tr>{cells}</tr></thead>"
    yield "<tbody>"
    kind = ' class="number"' if numbers else ""
    for name, values in lines:
        cells = "".join(f"<td{kind}>{for_page(value)}</td>" for value in values)
        yield f"<tr><th>{for_page(name)}</th>{cells}</tr>"
    yield "</tbody></table></div>"


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
