"""A measurement on images as one HTML page: no scripts, for light and dark screens."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbv3c.accuracy.report import lines
from mbv3c.atomic import new_file
from mbv3c.parity.verdict import Check
from mbv3c.quoting import for_page

_STYLE = """
:root { color-scheme: light dark; --good: #126b3a; --bad: #b3261e; --line: #d5d8dc; }
@media (prefers-color-scheme: dark) { :root { --good: #6fd39a; --bad: #ff8a80; --line: #3a3f47; } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .verdict { font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left; }
pre { font: 13px/1.5 ui-monospace, monospace; }
""".strip()


def write_page(
    path: Path, title: str, document: Mapping[str, Any], checks: Sequence[Check]
) -> None:
    """Write a page whole or not at all, over what is there.

    Args:
        path: the file.
        title: what was measured.
        document: what was measured, in the documented form.
        checks: what it was held to.

    Raises:
        UsageError: its folder is not there.
        BundleError: the place cannot be written.
    """
    with new_file(path, force=True) as temporary:
        text = "\n".join(_page(title, document, checks)) + "\n"
        temporary.write_text(text, "utf-8", errors="replace")


def _page(title: str, document: Mapping[str, Any], checks: Sequence[Check]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{for_page(title)}: accuracy on images</title>\n<style>\n{_STYLE}\n</style>"
    yield f"</head>\n<body>\n<h1>{for_page(title)}</h1>"
    missed = sum(not check.passed for check in checks)
    if missed:
        yield f'<p class="verdict bad">✗ MISSED: {missed} of {len(checks)} checks</p>'
    elif checks:
        yield f'<p class="verdict good">✓ passed: all of {len(checks)} checks</p>'
    if checks:
        yield '<h2>Checks</h2>\n<div class="wide"><table>'
        yield (
            '<thead><tr><th scope="col">verdict</th><th scope="col">of</th>'
            '<th scope="col">check</th><th scope="col">seen</th></tr></thead><tbody>'
        )
        for check in sorted(checks, key=lambda one: one.passed):  # what is missed comes first
            kind, mark = ("good", "passed") if check.passed else ("bad", "MISSED")
            row = (check.suite, check.name, check.finding)
            cells = "".join(f"<td>{for_page(cell)}</td>" for cell in row)
            yield f'<tr><td class="{kind}">{mark}</td>{cells}</tr>'
        yield "</tbody></table></div>"
    yield '<h2>Measured</h2>\n<div class="wide"><pre>'
    yield for_page("\n".join(lines(document)))
    yield "</pre></div>\n</body>\n</html>"
