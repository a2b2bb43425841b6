"""Answers drawn onto a picture: boxes with names, a map in colours with a legend, best classes."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import UsageError
from mbv3c.pictures.answers import Answer, Placing
from mbv3c.pictures.meaning import Meaning
from mbv3c.quantization.images import IMAGES
from mbv3c.quoting import for_terminal

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

Colour = tuple[int, int, int]

_TURN = 0.6180339887  # of the circle of hues from a class to the next one; none are close
_MASK = 0.55  # how much of a map's colour covers the picture
_SHADE = (0, 0, 0, 170)  # behind a legend
_LIGHT = 140  # luminance from which on black is easier to read
_LONGEST_NAME = 32
_TEXT = 28  # of the shorter side, for a line of text
_SMALLEST_TEXT, _LARGEST_TEXT = 12, 64
_SMALLEST_SIDE = 320  # of a drawing: smaller pictures are enlarged, or no text would fit


def check_picture(path: Path) -> None:
    """Make sure that a picture can be written under a name.

    Raises:
        UsageError: the name ends in something else.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")


def is_picture_name(path: Path) -> bool:
    """Say whether a name is that of a picture, also in a format that is not written."""
    return path.suffix.lower() in (*IMAGES, *FORMATS)


def colour_of(index: int) -> Colour:
    """Return the colour of a class, of equal lightness for all, and far from its neighbours."""
    red, green, blue = colorsys.hls_to_rgb((index * _TURN) % 1, 0.5, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawn(
    picture: "Image.Image", answer: Answer, meaning: Meaning, placing: Placing
) -> "Image.Image":
    """Return a picture with what was found drawn onto it; a small one is enlarged.

    Args:
        picture: the picture, upright, in RGB.
        answer: what a network says of it.
        meaning: what its outputs mean.
        placing: where the network's input lies in the picture.
    """
    from PIL import ImageDraw

    times = max(1, -(-_SMALLEST_SIDE // min(picture.size)))
    made = picture.resize((picture.width * times, picture.height * times))
    if answer.map is not None:
        _paint_map(made, answer.map, meaning, [round(edge * times) for edge in placing.part])
    pen, font = ImageDraw.Draw(made, "RGBA"), _font(made.size)
    line = max(2, min(made.size) // 200)
    for box in reversed(answer.boxes):  # the best comes to lie on top
        edges = [times * edge for edge in (box.left, box.top, box.right, box.bottom)]
        pen.rectangle(edges, outline=colour_of(box.index), width=line)
    taken: list[tuple[float, ...]] = []
    for box in answer.boxes:
        edges = [times * edge for edge in (box.left, box.top, box.right, box.bottom)]
        said = f"{_called(meaning, box.index)} {box.score:.0%}"
        _tag(pen, font, said, edges, colour_of(box.index), taken)
    legend = [
        *((f"{_called(meaning, one.index)}  {one.score:.3g}", None) for one in answer.classes),
        *(
            (f"{_called(meaning, one.index)}  {one.share:.1%}", _tint(meaning, one.index))
            for one in answer.areas
        ),
    ]
    _legend(pen, font, legend)
    return made


def save(picture: "Image.Image", place: Path, name: Path) -> None:
    """Write a picture to a place, in the format that a name asks for."""
    options: dict[str, Any] = {"quality": 92} if FORMATS[name.suffix.lower()] != "PNG" else {}
    with place.open("wb") as file:
        picture.save(file, FORMATS[name.suffix.lower()], **options)


def _is_background(meaning: Meaning, index: int) -> bool:
    """Say whether a class is what is behind everything: the first one, or so called."""
    name = meaning.name_of(index)
    return "background" in name.lower() if meaning.names else index == 0


def _tint(meaning: Meaning, index: int) -> Colour | None:
    return None if _is_background(meaning, index) else colour_of(index)


def _called(meaning: Meaning, index: int) -> str:
    name = for_terminal(meaning.called(index)).replace("\n", " ")
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _paint_map(
    picture: "Image.Image", map_: NDArray[np.int64], meaning: Meaning, part: Sequence[int]
) -> None:
    from PIL import Image

    indices, places = np.unique(map_, return_inverse=True)
    tints = [_tint(meaning, int(index)) for index in indices]
    table = np.array(
        [(*tint, round(255 * _MASK)) if tint else (0, 0, 0, 0) for tint in tints], np.uint8
    )
    mask = Image.fromarray(table[places.reshape(map_.shape)], "RGBA")
    left, top, right, bottom = part
    size = max(1, right - left), max(1, bottom - top)
    mask = mask.resize(size, Image.Resampling.NEAREST)
    picture.paste(mask.convert("RGB"), (left, top), mask.getchannel("A"))


def _font(size: tuple[int, int]) -> "ImageFont.FreeTypeFont":
    """Return a font with letters of many languages, for a picture of a size."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    height = min(max(min(size) // _TEXT, _SMALLEST_TEXT), _LARGEST_TEXT)
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), height)


def _tag(
    pen: "ImageDraw.ImageDraw",
    font: "ImageFont.FreeTypeFont",
    text: str,
    edges: Sequence[float],
    colour: Colour,
    taken: list[tuple[float, ...]],
) -> None:
    """Write text onto a colour above a box, in it or below it: where no other text is `taken`."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    pad = font.size / 4
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    across, down = pen.im.size[0] - width, pen.im.size[1] - height
    x = min(max(edges[0], 0), max(across, 0))
    heights = (edges[1] - height, edges[1], edges[3] - height, edges[3])
    free = [
        (x, y, x + width, y + height)
        for y in (min(max(y, 0), max(down, 0)) for y in heights)
        if not any(_overlap((x, y, x + width, y + height), other) for other in taken)
    ]
    place = free[0] if free else (x, max(heights[0], 0), x + width, max(heights[0], 0) + height)
    taken.append(place)
    pen.rectangle(place, fill=colour)
    pen.text((x + pad - left, place[1] + pad - top), text, fill=_ink(colour), font=font)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink(colour: Colour) -> Colour:
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > _LIGHT else (255, 255, 255)


def _legend(
    pen: "ImageDraw.ImageDraw",
    font: "ImageFont.FreeTypeFont",
    rows: Sequence[tuple[str, Colour | None]],
) -> None:
    """List rows in the upper left corner, on black; each may have a colour in front of it."""
    if not rows:
        return
    pad, step = font.size / 2, font.size * 1.35
    swatch = font.size * 1.4 if any(colour for _, colour in rows) else 0.0
    width = max(pen.textlength(text, font=font) for text, _ in rows) + swatch + 2 * pad
    pen.rectangle((0, 0, width, len(rows) * step + 2 * pad), fill=_SHADE)
    for at, (text, colour) in enumerate(rows):
        y = pad + at * step
        if colour is not None:
            pen.rectangle((pad, y, pad + font.size, y + font.size), fill=colour)
        pen.text((pad + swatch, y), text, fill=(255, 255, 255), font=font)
