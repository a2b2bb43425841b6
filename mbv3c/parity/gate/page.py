"""A verdict as one HTML page: no scripts, nothing from elsewhere, for light and dark screens."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mbv3c.atomic import new_file
from mbv3c.parity.checks import Check, exit_code
from mbv3c.parity.compare import Pairs
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.gate.limits import MetricRow
from mbv3c.parity.gate.pictures import inline_picture, write_picture
from mbv3c.parity.gate.request import GateRequest
from mbv3c.parity.gate.saved_outputs import Saved
from mbv3c.parity.gate.tables import tables

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
    title = escape(page.title)
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
    yield f"<p>{escape(_BLOCKS if blocks else str(page.blocks))}</p>"
    yield "</body>"
    yield "</html>"


_BLOCKS = (
    "Every block of the library got the tensors that onnxruntime computes for its inputs, within "
    "an inference, and what its kernels made of them is compared with what onnxruntime has there, "
    "over that tensor's range. An error shows in the block that makes it, and not in those behind."
)


def _verdict(checks: Sequence[Check]) -> str:
    missed = sum(not one.passed for one in checks)
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
    for one in sorted(checks, key=lambda check: check.passed):  # what is missed comes first
        kind, mark = ("good", "passed") if one.passed else ("bad", "MISSED")
        if one.skipped:
            mark = "not checked"
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (one.suite, one.name, one.said))
        yield f'<tr><td class="{kind}">{mark}</td>{cells}</tr>'
    yield "</tbody></table></div>"


def _table(
    head: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]], *, numbers: bool = False
) -> Iterator[str]:
    yield '<div class="wide"><table>'
    if any(head):
        cells = "".join(f"<th>{escape(one)}</th>" for one in head)
        yield f"<thead><tr>{cells}</tr></thead>"
    yield "<tbody>"
    kind = ' class="number"' if numbers else ""
    for name, values in lines:
        cells = "".join(f"<td{kind}>{escape(value)}</td>" for value in values)
        yield f"<tr><th>{escape(name)}</th>{cells}</tr>"
    yield "</tbody></table></div>"


Progress = Callable[[str], None]


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
        versions = ", ".join(f"{name} {one}" for name, one in origin["versions"].items())
        facts = {
            "target": f"{origin['target']} {origin['precision']}",
            "ran on": str(origin["ran_on"]),
            "made with": versions,
            "bundle": f"sha256 of its manifest {origin['bundle_sha256']}",
        }
        page = Page(str(origin["bundle"]), facts, checks, rows, saved.pairs, blocks)
        write_page(request.html, page)
