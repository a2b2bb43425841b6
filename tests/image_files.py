"""Write folders of synthetic images in every format, and of broken ones, for `verify --images`."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Pixels = Image.Image
Write = Callable[[Path, Pixels, np.random.Generator], None]

_ORIENTATION = 0x0112
LARGE_EVERY = 500  # one image in so many is as large as a camera's
LARGE = (4000, 3000)
_GRAIN = 24  # pixels of the noise that is enlarged


@dataclass(frozen=True)
class Made:
    """What was written: how many images there are, and which of them are broken."""

    total: int
    broken: frozenset[str]


def make_images(folder: Path, count: int, broken: int, classes: int, seed: int = 0) -> Made:
    """Write `count` files into folders `c0`, `c1`, ... of which `broken` cannot be read."""
    rng = np.random.default_rng(seed)
    places = set(rng.choice(count, broken, replace=False).tolist())
    for label in range(classes):
        (folder / f"c{label}").mkdir(parents=True)
    kinds, ways = _cycle(list(FORMATS)), _cycle(list(BREAKS))
    names = set()
    for index in range(count):
        start = f"c{index % classes}/{index:05}"
        suffix = next(kinds)
        pixels = _picture(rng, large=index % LARGE_EVERY == LARGE_EVERY - 1)
        if index not in places:
            FORMATS[suffix](folder / f"{start}{suffix}", pixels, rng)
            continue
        way = next(ways)
        name = f"{start}{Path(way).suffix}"
        BREAKS[way](folder / name, pixels, rng)
        names.add(name)
    return Made(count, frozenset(names))


def _cycle(values: list[str]) -> Iterator[str]:
    while True:
        yield from values


def _picture(rng: np.random.Generator, *, large: bool) -> Pixels:
    """Return smooth noise of random size and brightness."""
    grain = rng.integers(0, 256, (_GRAIN, _GRAIN, 3)) * rng.uniform(0.2, 1.0, 3)
    size = LARGE if large else tuple(int(one) for one in rng.integers(20, 500, 2))
    return Image.fromarray(grain.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


# ---- formats ----


def _saved(mode: str, **options: object) -> Write:
    def write(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
        pixels.convert(mode).save(path, **options)

    return write


def _turned(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = int(rng.integers(1, 9))
    pixels.save(path, exif=exif)


def _sixteen_bits(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
    levels = np.asarray(pixels.convert("L")).astype(np.uint16) * 257
    Image.fromarray(levels).save(path)


def _transparent(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
    mask = bytes(int(one) for one in rng.integers(0, 256, 16))
    pixels.quantize(16).save(path, transparency=mask)


# The last suffix is the format; those before only keep the names apart.
FORMATS: dict[str, Write] = {
    ".rgb.jpg": _saved("RGB", quality=90),
    ".rgb.png": _saved("RGB", compress_level=1),
    ".turned.jpeg": _turned,
    ".rgb.webp": _saved("RGB", quality=80, method=0),
    ".grey.jpg": _saved("L"),
    ".cmyk.JPG": _saved("CMYK"),
    ".rgba.png": _saved("RGBA", compress_level=1),
    ".rgb.bmp": _saved("RGB"),
    ".palette.png": _transparent,
    ".sixteen.png": _sixteen_bits,
    ".one.png": _saved("1"),
    ".rgba.webp": _saved("RGBA", quality=80, method=0),
    ".rgb.tif": _saved("RGB"),
    ".palette.gif": _saved("P"),
}


# ---- what is broken ----


def _cut(kind: str) -> Write:
    """Write the first half of a file."""

    def write(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
        pixels.save(path, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def _bomb(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
    """Write a few bytes that promise 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))


BREAKS: dict[str, Write] = {
    "cut.jpg": _cut("JPEG"),
    "empty.jpg": lambda path, pixels, rng: path.write_bytes(b"") and None,
    "text.jpeg": lambda path, pixels, rng: path.write_text("no image\n") and None,
    "folder.jpg": lambda path, pixels, rng: path.mkdir(),
    "bomb.png": _bomb,
    "noise.webp": lambda path, pixels, rng: path.write_bytes(rng.bytes(5000)) and None,
    "dangling.png": lambda path, pixels, rng: path.symlink_to("nowhere.png"),
    "pipe.bmp": lambda path, pixels, rng: os.mkfifo(path),
    "cut.png": _cut("PNG"),
}
