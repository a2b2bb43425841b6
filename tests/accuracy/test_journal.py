"""A journal keeps whole groups through anything, and takes no other measurement's."""

import json
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbv3c.accuracy.journal import open_journal
from mbv3c.errors import BundleError, UsageError

KEY = {"bundle": "abc", "seed": None, "preprocessing": {"mean": [0.5, 0.5, 0.5]}}
GROUPS = [[{"file": f"ü{group}.jpg", "label": group, "bundle": [1, 2]}] * 2 for group in range(4)]


def write(path: Path, groups: list[list[dict]]) -> None:
    with open_journal(path, KEY) as journal:
        for group in groups:
            journal.add(group)


def contents(path: Path) -> list[dict]:
    with open_journal(path, KEY) as journal:
        return list(journal.read())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "j.jsonl"
    write(path, GROUPS[:2])
    with open_journal(path, KEY) as journal:
        assert journal.groups == 2
        journal.add(GROUPS[2])
        assert list(journal.read()) == [image for group in GROUPS[:3] for image in group]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_torn_journal_keeps_its_whole_groups(tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere: what was whole stays, and going on gives the same journal as never cut."""
    path = tmp_path / "j.jsonl"
    path.unlink(missing_ok=True)
    write(path, GROUPS)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with open_journal(path, KEY) as journal:
        assert journal.groups == max(0, whole[:cut].count(b"\n") - 1)
        for group in GROUPS[journal.groups :]:
            journal.add(group)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b"[1]\n", b'{"group": 7, "images": []}\n'])
def test_what_follows_a_damaged_line_is_done_again(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "j.jsonl"
    write(path, GROUPS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    assert contents(path) == GROUPS[0]
    assert path.read_bytes() == b"".join(lines[:2])


def test_another_measurement_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, GROUPS)
    before = path.read_bytes()
    other = {**KEY, "bundle": "xyz"}
    with (
        pytest.raises(UsageError, match="with another bundle; name another"),
        open_journal(path, other),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["my thesis", "my thesis\n", '{"a": 1}\n', "[]\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match="no journal"), open_journal(path, KEY):
        pass
    assert path.read_text() == text


def test_two_processes_do_not_write_to_one_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv3c.records.PATIENCE", 0.1)
    path = tmp_path / "j.jsonl"
    with (
        open_journal(path, KEY),
        pytest.raises(UsageError, match="another process"),
        open_journal(path, KEY),
    ):
        pass
    assert json.loads(path.read_text())["journal"] == 1


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, GROUPS[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_journal(path, KEY) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(BundleError, match="cannot write the journal"):
                journal.add(GROUPS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(path) == GROUPS[0]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="Is a directory"), open_journal(tmp_path, KEY):
        pass
    with pytest.raises(UsageError, match="no file"), open_journal(Path("/dev/null"), KEY):
        pass
