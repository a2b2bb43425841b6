"""Answers are drawn where they belong, in the colours of their classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3c.ends.labels import BestClass
from mbv3c.errors import UsageError
from mbv3c.pictures.answers import Answer, Area, Box, Placing
from mbv3c.pictures.drawing import check_picture, colour_of, drawn, save
from mbv3c.pictures.meaning import Meaning

GREY = (90, 90, 90)
NAMES = ("background", "ant", "é" * 80)


def picture(width: int = 400, height: int = 400) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def changed(made: Image.Image) -> np.ndarray:
    return (np.asarray(made) != GREY).any(axis=2)


def test_a_box_has_an_outline_and_a_tag() -> None:
    answer = Answer(boxes=(Box(1, "ant", 0.9, 100, 120, 300, 350),))
    placing = Placing((0, 0, 400, 400), 10, 10)
    made = drawn(picture(), answer, Meaning("boxes", NAMES), placing)
    assert made.getpixel((200, 350)) == made.getpixel((300, 200)) == colour_of(1)
    assert made.getpixel((200, 240)) == GREY
    rows, columns = np.nonzero(changed(made))
    assert (rows.max(), columns.min(), columns.max()) == (350, 100, 300)
    assert 90 < rows.min() < 120  # the tag is above it


def test_tags_do_not_hide_each_other() -> None:
    boxes = tuple(Box(index, "", 0.9, 20, 60, 380, 390) for index in (1, 2))
    placing = Placing((0, 0, 400, 400), 10, 10)
    one, two = (
        changed(drawn(picture(), Answer(boxes=some), Meaning("boxes", NAMES), placing))[:, 25:200]
        for some in (boxes[:1], boxes)
    )
    assert two.sum() > 1.5 * one.sum() - 200


@pytest.mark.parametrize("names", [NAMES, ()])
def test_a_map_covers_what_the_network_sees_but_the_background(names: tuple[str, ...]) -> None:
    map_ = np.array([[0, 1], [0, 1]])
    answer = Answer(areas=(Area(0, "", 0.5), Area(1, "", 0.5)), map=map_)
    placing = Placing((100, 200, 300, 400), 2, 2)
    made = drawn(picture(), answer, Meaning("map of scores", names), placing)
    rows, columns = np.nonzero(changed(made)[150:])  # below the legend
    assert (rows.min() + 150, rows.max() + 150) == (200, 399)
    assert (columns.min(), columns.max()) == (200, 299)


def test_a_small_picture_is_enlarged_so_that_text_fits() -> None:
    answer = Answer((BestClass(0, 2, NAMES[2], 0.5),))
    meaning, placing = Meaning("scores", NAMES), Placing((0, 0, 20, 30), 8, 8)
    made = drawn(picture(20, 30), answer, meaning, placing)
    assert made.size == (320, 480)
    assert changed(made)[:40].any()
    assert not changed(made)[60:].any()


@pytest.mark.parametrize("name", ["x.png", "x.JPG", "x.webp"])
def test_the_name_says_the_format(tmp_path: Path, name: str) -> None:
    check_picture(tmp_path / name)
    save(picture(), tmp_path / "temporary", tmp_path / name)
    kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[Path(name).suffix.lower()]
    with Image.open(tmp_path / "temporary") as written:
        assert written.format == kind


def test_other_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"x\.gif: a picture's name ends in \.png"):
        check_picture(Path("x.gif"))
