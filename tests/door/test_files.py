"""Only plain files of a bounded size are read."""

import os
from pathlib import Path

import pytest

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused, read_plain


def test_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("x")
    assert read_plain(tmp_path / "link", 4) == b"1234"
    with pytest.raises(Refused, match="are the most"):
        read_plain(tmp_path / "x", 3)


def test_what_may_never_end_is_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(Refused, match="no plain file"):
            read_plain(place, 1 << 20)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a": NaN}', "holds NaN"),
        ("[-Infinity]", "holds -Infinity"),
        ("[1e999]", "beyond what a float holds"),
        ("9" * 10_000, "digits"),
        ('["\\ud800"]', "half a character"),
        ("{", "property name"),
    ],
    ids=lambda text: text[:10],
)
def test_documents_are_refused_in_words(text: str, reason: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(Refused, match=reason):
            parse_json(given)


def test_whole_characters_may_be_escaped() -> None:
    assert parse_json('["\\ud83d\\ude00", 1.5]') == ["😀", 1.5]
