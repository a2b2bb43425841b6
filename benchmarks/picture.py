"""Draw README's picture from RESULTS.md: `python -m benchmarks.picture`.

It has a ground of its own, so that it can be read on light and on dark pages. Which colours it
takes, the system of the reader decides.
"""

import re
from dataclasses import dataclass
from html import escape
from itertools import takewhile
from pathlib import Path

from benchmarks.results import RESULTS

PICTURE = Path(__file__).parents[1] / "docs/results.svg"
NETWORKS = {"Large 1, 224 px": "Large", "Small 1, 224 px": "Small"}

# A colour for light and one for dark pages; each text has a contrast of 4.5 or more to its ground.
COLOURS = {
    "ground": ("#ffffff", "#161b22"),
    "text": ("#1f2328", "#e6edf3"),
    "quiet": ("#57606a", "#9aa4ae"),
    "ours": ("#0b62c4", "#58a6ff"),
    "theirs": ("#aeb6bf", "#545d68"),
}
WIDTH, PANEL, MARGIN = 800, 385, 22
ABOVE_AND_BELOW = 154  # the bars of both networks
NAME, BAR, ROW = 92, 190, 20  # room for a runtime's name, the longest bar, and a line


@dataclass(frozen=True)
class Bar:
    """One runtime on one network."""

    runtime: str
    figure: str  # as the table has it
    busy: bool = False  # the machine did other things, too


@dataclass(frozen=True)
class Panel:
    """What is compared, and the bars for each network."""

    title: str
    note: str
    unit: str
    groups: dict[str, list[Bar]]


def section(text: str, title: str) -> str:
    """Return a section of RESULTS.md, without its title.

    Raises:
        ValueError: there is none of this title.
    """
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if not found:
        raise ValueError(f"RESULTS.md has no section `{title}`; run make bench")
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of a section's tables, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def runtimes_of(head: list[str]) -> list[str]:
    """Return the runtimes of a table, which stand between its first two columns and the ratios."""
    return list(takewhile(lambda title: not title.startswith("/ "), head[2:]))


def latency(text: str) -> Panel:
    """Read the times of this machine, on one thread."""
    part = section(text, "Latency on this machine")
    date, machine = re.findall(r"^(\S+), ([^,]+),", part, re.MULTILINE)[0]
    head, *body = rows(part)
    runtimes, groups = runtimes_of(head), dict[str, list[Bar]]()
    for network, threads, *cells in body:
        if network in NETWORKS and threads == "1":
            ratios = zip(head[2:], cells, strict=True)
            busy = {title.lstrip("/ ") for title, cell in ratios if "?" in cell}
            groups[NETWORKS[network]] = [
                Bar(runtime, cell.split()[0], runtime in busy)
                for runtime, cell in zip(runtimes, cells, strict=False)
            ]
    return Panel("Latency, ms", f"measured on one core of an {machine}, {date}", "ms", groups)


def instructions(text: str) -> Panel:
    """Read the counts on the emulated Cortex-A76, in fp32."""
    part = section(text, "Executed instructions, emulated Cortex-A76").partition("\n| fp16")[0]
    date = re.findall(r"^([0-9-]+),", part, re.MULTILINE)[0]
    head, *body = rows(part)
    groups = {
        NETWORKS[network]: [
            Bar(runtime, cell.split()[0])
            for runtime, cell in zip(runtimes_of(head), cells, strict=False)
        ]
        for network, _, *cells in body
        if network in NETWORKS
    }
    note = f"counted on an emulated Cortex-A76, {date}"
    return Panel("Instructions, millions", note, "M", groups)


def drawn(panel: Panel, left: int, top: int) -> list[str]:
    """Return the elements of a panel."""
    longest = max(float(bar.figure) for bars in panel.groups.values() for bar in bars)
    found = [
        f'<text x="{left}" y="{top}" class="text title">{escape(panel.title)}</text>',
        f'<text x="{left}" y="{top + 18}" class="quiet">{escape(panel.note)}</text>',
    ]
    y = top + 44
    for network, bars in panel.groups.items():
        found.append(f'<text x="{left}" y="{y}" class="text">MobileNetV3-{network}</text>')
        for bar in bars:
            y += ROW
            name, kind = ("text", "ours") if bar.runtime == "mbv3c" else ("quiet", "theirs")
            x, long = left + NAME, round(BAR * float(bar.figure) / longest, 1)
            figure = f"{bar.figure} {panel.unit}{' ?' if bar.busy else ''}"
            found += [
                f'<text x="{x - 8}" y="{y}" class="{name} right">{escape(bar.runtime)}</text>',
                f'<rect x="{x}" y="{y - 11}" width="{long}" height="13" rx="2" class="{kind}"/>',
                f'<text x="{x + long + 6:.1f}" y="{y}" class="text">{figure}</text>',
            ]
        y += ROW + 14
    return found


def in_words(panels: list[Panel]) -> str:
    """Say what the picture shows."""
    return " ".join(
        f"{panel.title}, {panel.note}: "
        + "; ".join(
            f"{network} " + ", ".join(f"{bar.runtime} {bar.figure}" for bar in bars)
            for network, bars in panel.groups.items()
        )
        + "."
        for panel in panels
    )


def picture(results: str) -> str:
    """Return the picture of these results, as SVG."""
    panels = [latency(results), instructions(results)]
    light, dark = (
        "".join(f".{name}{{fill:{pair[theme]}}}" for name, pair in COLOURS.items())
        for theme in (0, 1)
    )
    elements = [
        element
        for place, panel in enumerate(panels)
        for element in drawn(panel, MARGIN + place * PANEL, 34)
    ]
    lines = max(sum(map(len, panel.groups.values())) for panel in panels)
    height = ABOVE_AND_BELOW + ROW * lines
    busy = any(bar.busy for panel in panels for bars in panel.groups.values() for bar in bars)
    foot = "fp32, 224 pixels, batch 1; shorter is better"
    foot += "; ? the machine was busy" if busy else ""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="13">',
            "<title>mbv3c beside other runtimes</title>",
            f"<desc>{escape(in_words(panels))}</desc>",
            f"<style>{light}.title{{font-size:16px;font-weight:600}}.right{{text-anchor:end}}"
            f"@media (prefers-color-scheme:dark){{{dark}}}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" class="ground"/>',
            *elements,
            f'<text x="{MARGIN}" y="{height - 16}" class="quiet">{foot}</text>',
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(RESULTS.read_text()))
