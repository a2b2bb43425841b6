"""Pictures and the page: what they hold, and that a model's names can do nothing in them."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mbv3c.errors import UsageError
from mbv3c.parity.gate.blocks import Block, BlockErrors
from mbv3c.parity.gate.limits import measure_all
from mbv3c.parity.gate.page import Page, write_page, write_picture
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.verdict import Check, InputParity, Pair, Pairs

# Markup, TeX of the pictures, a name that legends leave out, letters that the font lacks.
HOSTILE = '_<script>alert("1")</script> $\\frac{x$ &amp; 層\x00\ud800'
VOID = {"meta", "link", "br", "img"}


def pairs(error: float = 1e-3, name: str = "logits", judged: InputParity | None = None) -> Pairs:
    wanted = np.linspace(-1, 1, 200, dtype=np.float32).reshape(1, 200)
    rng = np.random.default_rng(0)
    ours = wanted + np.float32(error) * rng.standard_normal(wanted.shape).astype(np.float32)
    pair = Pair(ours, ReferenceOutput(name, wanted, 0.0, 1), judged)
    boxes = Pair(wanted, ReferenceOutput("boxes", wanted, 0.0, None))
    return ((pair, boxes), (pair, boxes))


def blocks(name: str = "features.1") -> BlockErrors:
    rows = ((1e-7, 2e-3), (0.0, None), (math.inf, 1e-5))
    named = tuple(Block(f"{name}.{i}", i, i + 1) for i in range(3))
    return BlockErrors("this machine", named, rows)


class Reader(HTMLParser):
    """Collects text and elements; elements must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        names = ("href", "src", "xlink:href")
        self.references += [value or "" for name, value in attrs if name in names]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def written(path: Path, page: Page) -> tuple[Reader, str]:
    write_page(path, page)
    text = path.read_text("utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader, text


def page(name: str = "logits", shown: BlockErrors | str = "none") -> Page:
    found = pairs(name=name)
    checks = [
        Check("parity", f"{name}, input 0", True, "max error 1e-6"),
        Check("limits", f"--max-abs of {name}", False, "1 (at most 0)"),
        Check("parity", "command stream", True, "unknown", skipped=True),
    ]
    return Page(name, {"target": name}, checks, measure_all(found), found, shown)


def test_what_a_page_holds(tmp_path: Path) -> None:
    reader, text = written(tmp_path / "p.html", page(shown=blocks()))
    said = "".join(reader.text)
    assert "✗ MISSED: 1 of 3 checks (exit code 3)" in said
    assert "not checked" in said
    assert "max relative error" in said
    assert "Every block of the library got the tensors" in said
    assert reader.tags.count("svg") == 1
    first = said.index("--max-abs of logits")
    assert first < said.index("logits, input 0")  # what is missed comes first
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text  # axes and labels of the picture follow the page
    assert "#010203" not in text


def test_nothing_from_elsewhere_and_no_script(tmp_path: Path) -> None:
    reader, text = written(tmp_path / "p.html", page(shown=blocks()))
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert all(one.startswith(("#", "data:image/png;base64,")) for one in reader.references)
    # What is left are names of XML namespaces.
    assert set(re.findall(r"https?://[^\"'\s<>]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text


def test_names_of_a_model_are_text(tmp_path: Path) -> None:
    reader, text = written(tmp_path / "p.html", page(HOSTILE, blocks(HOSTILE)))
    assert "script" not in reader.tags
    assert "<script" not in text
    assert '<script>alert("1")</script> $\\frac{x$ &amp; 層' in "".join(reader.text)


def test_without_blocks_it_says_why(tmp_path: Path) -> None:
    reader, _ = written(tmp_path / "p.html", page(shown="nothing <stops> there"))
    assert "nothing <stops> there" in reader.text


def test_all_passed(tmp_path: Path) -> None:
    found = pairs()
    passed = Page("a", {}, [Check("parity", "x", True, "")], measure_all(found), found, "no")
    reader, _ = written(tmp_path / "p.html", passed)
    assert "✓ passed: the one check" in reader.text


@pytest.mark.parametrize("shown", [None, blocks(), blocks(HOSTILE)])
def test_a_png(tmp_path: Path, shown: BlockErrors | None) -> None:
    write_picture(tmp_path / "p.png", pairs(name=HOSTILE), shown)
    with Image.open(tmp_path / "p.png") as image:
        assert image.width == 1080
        # The heat map comes below.
        assert (image.height > 600) is (shown is not None)


JUDGED = InputParity("logits", 1e-6, 1e-5, 0.0, 1.0, None, None)


@pytest.mark.parametrize(("error", "red"), [(2e-3, True), (9e-6, False)])
def test_colours_go_by_what_is_allowed(error: float, red: bool, tmp_path: Path) -> None:
    one = BlockErrors("this machine", (Block("a", 0, 1),), ((1e-8, error),))
    # The scale of colours shows red in any case: less of it than of a cell.
    write_picture(tmp_path / "p.png", pairs(judged=JUDGED), one)
    with Image.open(tmp_path / "p.png") as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24) or ()
    count = sum(n for n, (r, g, b) in colours if r > 150 and g < 60 and b < 60)
    assert (count > 5000) is red


def test_limits_are_drawn(tmp_path: Path) -> None:
    write_picture(tmp_path / "p.svg", pairs(judged=JUDGED), None)
    # The range of the reference is 2.
    assert "<!-- limit of logits: 2.0e-05 -->" in (tmp_path / "p.svg").read_text()


def test_an_svg_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_picture(tmp_path / name, pairs(), blocks())
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("error", [0.0, math.nan])
def test_nothing_to_draw(tmp_path: Path, error: float) -> None:
    empty = BlockErrors("this machine", (Block("a", 0, 1),), ((None, 0.0),))
    write_picture(tmp_path / "p.png", pairs(error), empty)
    assert (tmp_path / "p.png").stat().st_size > 0


def test_one_error_alone(tmp_path: Path) -> None:
    one = BlockErrors("this machine", (Block("a", 0, 1),), ((1e-6, 1e-6),))
    write_picture(tmp_path / "p.png", pairs(), one)


def test_another_ending(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a picture's name ends in \.png or \.svg"):
        write_picture(tmp_path / "p.jpg", pairs(), None)
