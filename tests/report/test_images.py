"""Thumbnails: of files in the folder and of no others."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mbv3c.report.images import thumbnail


def test_a_thumbnail_is_small_and_of_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    picture = Image.fromarray(np.full((300, 500, 3), (200, 10, 10), np.uint8))
    for place in (folder / "cat" / "a.png", tmp_path / "outside.png"):
        picture.save(place)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "broken.png").write_bytes(b"no image")
    address = thumbnail(folder, "cat/a.png")
    assert address is not None and len(address) < 8000
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(data))) as small:
        assert small.size == (112, 112)
        assert small.getpixel((50, 50))[0] > 150
    outside = ("../outside.png", str(tmp_path / "outside.png"), "link.png")
    for name in (*outside, "broken.png", "none.png", "a\0.png"):
        assert thumbnail(folder, name) is None, name
