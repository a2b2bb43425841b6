"""Pages: what is text stays text, tables have heads, and colours can be read."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mbv3c import page as pages
from mbv3c.page import Html, Table, element, how, joined, missing, page, table

HOSTILE = "<script>alert(1)</script>&\"'\u202e\x1b[2J"


class Words(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_what_is_no_markup_is_text() -> None:
    made = element("p", HOSTILE, element("b", "bold"), title=HOSTILE)
    read = Words(made)
    assert [tag for tag, _ in read.tags] == ["p", "b"]
    shown = "<script>alert(1)</script>&\"'\\u202e\\x1b[2J"
    assert read.said == [shown, "bold"]
    assert read.tags[0][1] == {"title": shown}
    assert joined([HOSTILE, Html("<br>")]).endswith("[2J<br>")


def test_a_table_has_a_caption_and_heads() -> None:
    made = table(Table("sizes", ("", "bytes"), [("arena", "12")], numbers=True))
    read = Words(made)
    heads = [attributes for tag, attributes in read.tags if tag == "th"]
    assert [head["scope"] for head in heads] == ["col", "row"]
    assert "<caption>sizes</caption>" in made
    assert '<td class="number">12</td>' in made
    region = read.tags[0][1]
    assert (region["role"], region["tabindex"], region["aria-label"]) == ("region", "0", "sizes")


def test_figures_say_their_kind_and_how_to_repeat_them() -> None:
    made = how(pages.EMULATED, "on a Cortex-A76", "bench", "my bundle", "--json")
    assert '<span class="kind emulated">emulated</span> on a Cortex-A76' in made
    assert "<code>mbv3c bench &#x27;my bundle&#x27; --json</code>" in made
    assert "Again" not in how(pages.COMPUTED, "by the files")
    assert "<code>mbv3c verify B</code>" in missing("Not verified.", "verify", "B")


def test_a_page_is_whole(tmp_path: Path) -> None:
    text = page("a & b", "report", [element("p", "half \ud800")])
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>a &amp; b: report</title>" in text
    pages.write_page(tmp_path / "p.html", text)
    assert "half \\ud800" in (tmp_path / "p.html").read_text("utf-8")
    assert "script" not in text and "http" not in text and "url(" not in text


def light(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    r, g, b = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [pages._LIGHT, pages._DARK])
def test_every_colour_of_text_can_be_read(theme: str) -> None:
    colours = dict(re.findall(r"--(\w+): (#\w{6});", theme))
    grounds = [colours.pop(name) for name in ("page", "soft")]
    colours.pop("line")
    assert len(colours) == 6
    found = [contrast(colour, ground) for colour in colours.values() for ground in grounds]
    assert min(found) >= 4.5
