from pathlib import Path
from typing import Any

import pytest

from mbv3c.errors import UsageError
from mbv3c.search.journal import check_folder, open_journal

HEAD = {"command": "adapt", "training": {"rate": 0.1, "steps": 5}, "kept": ("stem",)}


def found(path: Path, *values: Any, head: dict[str, Any] = HEAD) -> list[Any]:
    """Look for numbered things; those that are not given must be known."""

    def find(number: int) -> Any:
        if number >= len(values):
            raise LookupError(number)
        return values[number]

    with open_journal(path, head) as journal:
        return [journal.once("thing", n, find=lambda n=n: find(n)) for n in range(3)]


def test_what_is_known_is_not_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    things = [{"a": 0.1 + 0.2}, [1, None], "text"]
    assert found(path, *things) == things
    assert found(path) == things


def test_what_was_found_before_a_kill_is_known(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(LookupError):
        found(path, 1, 2)
    torn = path.read_bytes() + b'{"key":["thing",2],"val'
    path.write_bytes(torn)
    assert found(path, None, None, 3) == [1, 2, 3]
    assert found(path) == [1, 2, 3]


def test_a_torn_head_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    found(path, 1, 2, 3)
    path.write_bytes(path.read_bytes()[:20])
    assert found(path, 4, 5, 6) == [4, 5, 6]


def test_another_search_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    found(path, 1, 2, 3)
    other = {**HEAD, "training": {"rate": 0.2, "steps": 5}, "seed": 1}
    with pytest.raises(
        UsageError, match=r"an adaptation .*training\.rate, seed; .* with --journal, or remove"
    ):
        found(path, head=other)


def test_a_journal_that_holds_nothing_belongs_to_nobody(tmp_path: Path) -> None:
    """A command that was refused, or was interrupted at once, is called again otherwise."""
    path, other = tmp_path / "journal", {**HEAD, "seed": 1}
    with pytest.raises(LookupError):
        found(path)
    assert found(path, 1, 2, 3, head=other) == [1, 2, 3]
    assert found(path, head=other) == [1, 2, 3]
    with pytest.raises(UsageError, match="another seed"):
        found(path)


def test_a_folder_with_other_things_is_no_searchs(tmp_path: Path) -> None:
    path = tmp_path / "found" / "journal"
    check_folder(path)
    path.parent.mkdir()
    check_folder(path)
    (path.parent / "notes").touch()
    with pytest.raises(UsageError, match=r"found holds notes, and no journal of a search"):
        check_folder(path)
    found(path, 1, 2, 3)
    check_folder(path)
    with pytest.raises(UsageError, match=r"cannot keep a search in .*notes: Not a directory"):
        check_folder(path.parent / "notes" / "journal")


def test_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    for text in ("my notes\n", '{"notes": 1}\n', "no line"):
        path.write_text(text)
        with pytest.raises(UsageError, match="is no journal of this command"):
            found(path)
        assert path.read_text() == text


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv3c.records.PATIENCE", 0.0)
    with (
        open_journal(tmp_path / "journal", HEAD),
        pytest.raises(UsageError, match="another process writes the journal"),
        open_journal(tmp_path / "journal", HEAD),
    ):
        pass
