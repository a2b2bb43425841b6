"""Pictures: the right format, whole or not at all, the same bytes each time."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mbv3c.errors import UsageError
from mbv3c.figures import check_figure, figure, inline_panels, label_text


def drawn(path: Path, top: float = 3.0, *, force: bool = False) -> bytes:
    with figure(path, "title", "size, KiB", "cycles", force=force) as axes:
        axes.plot([1, 2], [1, top], label="front")
        axes.legend()
    return path.read_bytes()


def test_a_png_is_a_picture(tmp_path: Path) -> None:
    drawn(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.size == (1080, 675)
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10


def test_an_svg_says_what_was_asked_for(tmp_path: Path) -> None:
    text = drawn(tmp_path / "a.svg").decode()
    assert text.startswith("<?xml")
    assert all(f"<!-- {word} -->" in text for word in ("title", "size, KiB", "cycles", "front"))


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_the_same_drawing_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first = drawn(tmp_path / name)
    assert drawn(tmp_path / name, force=True) == first
    assert drawn(tmp_path / name, 4.0, force=True) != first


@pytest.mark.parametrize("name", ["a.pdf", "a", "none/a.png", "there.png"])
def test_a_place_that_cannot_be_written_is_refused_first(name: str, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"ends in \.png or \.svg|does not exist|exists; write"):
        check_figure(tmp_path / name, force=False)
    with pytest.raises(UsageError):
        drawn(tmp_path / name)
    assert (tmp_path / "there.png").read_bytes() == b"old"


def test_what_fails_while_it_is_drawn_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no data"),
        figure(tmp_path / "a.png", "title", "x", "y"),
    ):
        raise ValueError("no data")
    assert not list(tmp_path.iterdir())


def test_settings_of_others_stay_as_they_are(tmp_path: Path) -> None:
    from matplotlib import rcParams

    before = dict(rcParams)
    drawn(tmp_path / "a.svg")
    assert dict(rcParams) == before


def test_pictures_of_a_page_share_no_identifiers_and_say_what_they_show() -> None:
    def draw(panels: Sequence[Any]) -> None:
        panels[0].plot([1, 2], [1, 3], "o", label=label_text("$\\frac{x$ <b>"))
        panels[0].legend()

    first, second = (inline_panels([2.0], draw, alt) for alt in ('a "front"', "another"))
    assert first.startswith('<svg role="img" aria-label="a &quot;front&quot;"')
    named = [set(re.findall(r' id="([^"]*)"', text)) for text in (first, second)]
    assert all(named) and not named[0] & named[1]
    assert all(f"#{name}" in first for name in named[0])
    assert "$\\frac{x$ &lt;b&gt;</text>" in first
    assert first == inline_panels([2.0], draw, 'a "front"')
