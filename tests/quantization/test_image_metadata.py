"""Entries about images are read, and damaged ones refused by name."""

import pytest

from mbv3c.errors import ModelError
from mbv3c.quantization import image_metadata as stored


@pytest.mark.parametrize(
    ("key", "entry", "read"),
    [
        (stored.SCALE, "0", lambda entries: stored.scale_of(entries, 1.0)),
        (stored.SCALE, '"1"', lambda entries: stored.scale_of(entries, 1.0)),
        (stored.COLOURS, "BGR", stored.is_bgr),
        (stored.COLOURS, '"GBR"', stored.is_bgr),
        (stored.LAYOUT, '"CHW"', stored.layout_of),
        (stored.SHOWN, "2", lambda entries: stored.shown_of(entries, None)),
        (stored.MEAN, "[1, 2]", lambda entries: stored.numbers_of(entries, stored.MEAN, ())),
    ],
)
def test_damaged_entries_are_named(key: str, entry: str, read: object) -> None:
    assert callable(read)
    with pytest.raises(ModelError, match=f"metadata {key} is .*remove that entry or correct it"):
        read({key: entry})


def test_entries_that_say_more_than_the_head() -> None:
    head = {"mbv3c.head": "ssdlite", stored.MEAN: "[0.5, 0.5, 0.5]", stored.STD: "[0.5, 0.5, 0.5]"}
    assert not stored.says_more({})
    assert not stored.says_more(head)
    assert stored.says_more(head | {stored.SHOWN: "null"})
    assert stored.says_more(head | {stored.STD: "[1, 1, 1]"})
