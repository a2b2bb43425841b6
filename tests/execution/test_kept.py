"""What is kept in the cache: whole or not at all, nobody else's, and not too much."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbv3c.execution.kept import Kept


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "deep" / "objects", 1000)


def test_what_was_written_is_read(kept: Kept) -> None:
    assert kept.read("a") is None
    kept.write("a", b"one")
    kept.write("b", b"")
    kept.write("a", b"two")
    assert (kept.read("a"), kept.read("b"), kept.read("c")) == (b"two", b"", None)
    assert sorted(path.name for path in kept.folder.iterdir()) == ["a", "b"]
    assert kept.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("at", [0, 31, 32, 40])
def test_a_damaged_entry_counts_as_missing(kept: Kept, at: int) -> None:
    kept.write("a", b"0123456789")
    place = kept.folder / "a"
    data = bytearray(place.read_bytes())
    data[at] ^= 1
    place.write_bytes(data)
    assert kept.read("a") is None
    place.write_bytes(place.read_bytes()[:at])
    assert kept.read("a") is None
    kept.write("a", b"0123456789")
    assert kept.read("a") == b"0123456789"


def test_a_folder_that_others_may_write_to_is_left_alone(kept: Kept) -> None:
    kept.write("a", b"one")
    kept.folder.chmod(0o770)
    assert kept.read("a") is None
    kept.write("b", b"two")
    assert [path.name for path in kept.folder.iterdir()] == ["a"]
    kept.folder.chmod(0o700)
    assert kept.read("a") == b"one"


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = Kept(tmp_path / "file" / "objects", 1000)
    kept.write("a", b"one")
    kept.shrink()
    assert kept.read("a") is None


def test_many_that_write_and_read_at_once_see_whole_entries(kept: Kept) -> None:
    content = os.urandom(100_000)

    def use(number: int) -> bytes | None:
        if number % 2:
            kept.write("a", content)
        return kept.read("a")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, range(200)))
    assert content in found
    assert set(found) <= {None, content}
    assert [path.name for path in kept.folder.iterdir()] == ["a"]


def test_what_was_used_longest_ago_goes_first(kept: Kept) -> None:
    for number in range(10):
        kept.write(f"{number}", bytes(80))  # and 32 bytes of digest
        os.utime(kept.folder / f"{number}", (number, number))
    assert kept.read("0") is not None
    kept.shrink()
    assert sorted(path.name for path in kept.folder.iterdir()) == ["0", "5", "6", "7", "8", "9"]
    kept.shrink()
    assert len(list(kept.folder.iterdir())) == 6


def test_an_entry_under_the_name_of_another_counts_as_missing(kept: Kept) -> None:
    kept.write("a", b"one")
    kept.write("b", b"two")
    (kept.folder / "a").rename(kept.folder / "c")
    (kept.folder / "b").rename(kept.folder / "a")
    assert (kept.read("a"), kept.read("b"), kept.read("c")) == (None, None, None)


def test_what_leads_nowhere_keeps_nothing_from_being_removed(kept: Kept) -> None:
    """Neither a link without an end, nor a file that goes while the folder is read."""
    for number in range(10):
        kept.write(f"{number}", bytes(80))
        os.utime(kept.folder / f"{number}", (number, number))
    (kept.folder / "link").symlink_to("nowhere")
    (kept.folder / "folder").mkdir()
    kept.shrink()
    left = {path.name for path in kept.folder.iterdir()}
    assert {"folder", "9"} <= left
    assert len(left) < 10
