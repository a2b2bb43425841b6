"""Pages in HTML: no scripts, nothing from elsewhere, for light and dark screens and for paper.

All text is escaped where it becomes markup, by its type: what is no `Html` is text. A library of
templates would escape `<` as well, but not what hides or reorders text, which names in models may
hold, and mypy would check nothing inside of its templates.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.atomic import new_file
from mbv3c.quoting import for_page

_VOID = ("meta", "img", "br")
# What a figure is: on the device, on a stand-in for it, by a model of it, or by its own making.
MEASURED, EMULATED, ESTIMATED, COMPUTED = "measured", "emulated", "estimated", "computed"
KINDS = {
    MEASURED: "on the machine that is named",
    EMULATED: "the program itself ran, on an emulated processor, which says nothing about time",
    ESTIMATED: "a model of the device gave it; nothing ran there",
    COMPUTED: "it follows from the files alone",
}


class Html(str):
    """Markup in which all text is escaped already."""

    __slots__ = ()


def element(tag: str, *content: str, **attributes: str) -> Html:
    """Return an element; content that is no `Html` is text.

    Args:
        tag: name of the element.
        content: what is in it.
        attributes: attributes; in their names `_` stands for `-`, and one at the end is left out.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{for_page(value)}"'
        for name, value in attributes.items()
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{joined(content)}</{tag}>")


def joined(parts: Iterable[str]) -> Html:
    """Return parts as one; those that are no `Html` are text."""
    return Html("".join(part if isinstance(part, Html) else for_page(part) for part in parts))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        head: the heads of the columns; the first is that of the names of the rows.
        rows: the cells of each row, its name first.
        numbers: whether all cells but the names are numbers, which end under each other.
        named: whether the first cell of a row is its name; without, it is a cell like others.
        texts: how many cells behind the names are text where the others are numbers.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False
    named: bool = True
    texts: int = 0


def table(given: Table) -> Html:
    """Return a table with heads of columns and of rows, which scrolls by itself if it is wide."""
    head = ""
    if any(given.head):
        numbers = 1 + given.texts if given.numbers else len(given.head)
        cells = [_head(cell, number=at >= numbers) for at, cell in enumerate(given.head)]
        head = element("thead", element("tr", *cells))
    rows = []
    for first, *others in given.rows:
        name = element("th", first, scope="row") if given.named else element("td", first)
        words, figures = others[: given.texts], others[given.texts :]
        kind = {"class_": "number"} if given.numbers else {}
        cells = [element("td", cell) for cell in words]
        cells += [element("td", cell, **kind) for cell in figures]
        rows.append(element("tr", name, *cells))
    whole = element("table", element("caption", given.caption), head, element("tbody", *rows))
    return wide(whole, given.caption)


def _head(cell: str, *, number: bool) -> Html:
    if not cell:
        return element("td")
    return element("th", cell, scope="col", **({"class_": "number"} if number else {}))


def wide(content: Html, label: str) -> Html:
    """Return what may be wider than the page: it scrolls by itself, by keys, too."""
    return element("div", content, class_="wide", role="region", tabindex="0", aria_label=label)


def picture(svg: str, caption: str) -> Html:
    """Return a picture of `figures.inline_panels` with its caption."""
    drawn = wide(Html(svg), caption)
    return element("figure", drawn, element("figcaption", caption))


def badge(kind: str) -> Html:
    """Return a mark that says what a figure is."""
    return element("span", kind, class_=f"kind {kind}")


def how(kind: str, where: str, *command: str) -> Html:
    """Return a line below figures: what kind they are, where they are from, and how to repeat it.

    Args:
        kind: one of `KINDS`.
        where: what measured, emulated, estimated or computed them.
        command: the arguments of mbv3c that repeat it; none if nothing does.
    """
    again = (". Again: ", line_of(*command)) if command else (".",)
    return element("p", badge(kind), f" {where}", *again, class_="how")


def line_of(*command: str) -> Html:
    """Return a command line of mbv3c, quoted for a shell."""
    return element("code", shlex.join(["mbv3c", *command]))


def missing(what: str, *command: str) -> Html:
    """Return a line in the place of figures that are not there: which command gives them."""
    return element("p", f"{what} ", line_of(*command), class_="missing")


def verdict(text: str, *, passed: bool) -> Html:
    """Return a verdict: a mark, words and a colour."""
    mark, kind = ("✓", "good") if passed else ("✗", "bad")
    return element("p", f"{mark} {text}", class_=f"verdict {kind}")


def anchor(text: str) -> str:
    """Return a name of a place in the page for a title."""
    return "".join(ch if ch.isascii() and ch.isalnum() else "-" for ch in text.lower()) or "top"


def page(title: str, what: str, body: Iterable[Html]) -> str:
    """Return a whole page.

    Args:
        title: its heading.
        what: the command that made it, for the title of the window.
        body: what follows the heading.
    """
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title}: {what}"),
        Html(f"<style>\n{_STYLE}\n</style>"),
    ]
    main = element("main", element("h1", title), Html("\n"), *(Html(f"{one}\n") for one in body))
    whole = element("html", element("head", *head), Html("\n"), element("body", main), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def write_page(path: Path, text: str, *, force: bool = True) -> None:
    """Write a page whole or not at all.

    Raises:
        UsageError: its folder is not there, or it exists and `force` is not set.
        BundleError: the place cannot be written.
    """
    with new_file(path, force=force) as temporary:
        # What cannot be encoded, half a surrogate in a name, is shown as a question mark.
        temporary.write_text(text, "utf-8", errors="replace")


# Each colour of text has a contrast of 4.5 and more on both grounds of its theme (WCAG 2.1, AA).
_LIGHT = """--ink: #1c1e21; --page: #ffffff; --line: #d5d8dc; --soft: #f3f4f6; --muted: #565c66;
  --good: #126b3a; --bad: #b3261e; --blue: #0b5cad; --amber: #855000;"""
_DARK = """--ink: #e4e6eb; --page: #16181c; --line: #3a3f47; --soft: #22262c; --muted: #a8adb7;
  --good: #6fd39a; --bad: #ff8a80; --blue: #82b8f7; --amber: #f2b45c;"""
_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
body {{ color: var(--ink); background: var(--page); font: 15px/1.5 system-ui, sans-serif;
  max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.25rem; margin-top: 2.5rem; }}
h3 {{ font-size: 1.05rem; margin-top: 1.8rem; }}
h1, h2, h3, p, li, td, th, code, caption {{ overflow-wrap: anywhere; }}
thead th {{ overflow-wrap: break-word; }}
.bundle {{ border-top: 2px solid var(--line); }}
.good {{ color: var(--good); }} .bad {{ color: var(--bad); }} .verdict {{ font-weight: 600; }}
.how, .missing, figcaption, caption {{ color: var(--muted); font-size: .9rem; }}
.kind {{ border: 1px solid currentColor; border-radius: .6rem; padding: 0 .45rem;
  font-size: .8rem; white-space: nowrap; color: var(--muted); }}
.measured {{ color: var(--good); }} .emulated {{ color: var(--blue); }}
.estimated {{ color: var(--amber); }}
code {{ font-size: .9em; background: var(--soft); padding: 0 .25rem; }}
a {{ color: var(--blue); }} nav ul {{ padding-left: 1.2rem; }}
.wide {{ overflow-x: auto; position: relative; }}
.wide:focus-visible {{ outline: 2px solid var(--blue); }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }}
caption {{ text-align: left; padding-bottom: .3rem; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left;
  vertical-align: top; min-width: 6.5rem; max-width: 26rem; }}
thead th, thead td {{ background: var(--soft); }}
thead th.number {{ text-align: right; }}
td.number {{ text-align: right; white-space: nowrap; min-width: 2.5rem; }}
thead th:not(:first-child) {{ min-width: 2.5rem; }} td code {{ white-space: nowrap; }}
tbody th {{ font-weight: normal; white-space: pre-wrap; min-width: 12.5rem; }}
figure {{ margin: 1rem 0; }}
svg {{ width: 100%; min-width: 34rem; height: auto; }}
svg text {{ font-family: "DejaVu Sans", system-ui, sans-serif !important; }}
.images {{ display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0; }}
.images li {{ width: 9.5rem; font-size: .85rem; }}
.images img {{ max-width: 9rem; max-height: 9rem; display: block; }}
pre {{ overflow-x: auto; font-size: 13px; }}
@media (max-width: 40rem) {{
  th, td {{ padding: .25rem .4rem; min-width: 8rem; }} tbody th {{ min-width: 7rem; }}
}}
@media print {{
  :root {{ {_LIGHT} }}
  body {{ margin: 0; max-width: none; font-size: 10pt; }}
  nav {{ display: none; }} .wide {{ overflow: visible; }} svg {{ min-width: 0; }}
  h2, h3, caption {{ break-after: avoid; }} tr, figure, .images li {{ break-inside: avoid; }}
}}
""".strip()
