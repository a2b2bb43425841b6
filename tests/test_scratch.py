"""Temporary folders go, also those of runs that were killed, and nothing else goes."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbv3c.scratch import scratch_folder

HELD = """
import sys
from mbv3c.scratch import scratch_folder

with scratch_folder("test") as folder:
    (folder / "file").write_text("text")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make another folder TMPDIR."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def test_it_is_there_for_the_block(temporary: Path) -> None:
    with scratch_folder("test") as folder:
        assert folder.parent == temporary
        (folder / "file").write_text("text")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_run_left_goes_and_what_a_living_one_has_stays(temporary: Path) -> None:
    pipe = subprocess.PIPE
    held = [
        subprocess.Popen([sys.executable, "-c", HELD], stdin=pipe, stdout=pipe, text=True)
        for _ in range(2)
    ]
    killed, living = held
    try:
        folders = [Path(process.stdout.readline().strip()) for process in held if process.stdout]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert all((folder / "file").is_file() for folder in folders)
        with scratch_folder("test"):
            assert [folder.exists() for folder in folders] == [False, True]
    finally:
        for process in held:
            process.communicate("")
    assert living.returncode == 0
    assert list(temporary.iterdir()) == []


def test_what_is_not_its_own_stays(temporary: Path) -> None:
    outside = temporary / "mbv3c-project"
    outside.mkdir()
    (outside / "work").write_text("text")
    link = temporary / ".mbv3c-scratch-test-link"
    link.symlink_to(outside)
    file = temporary / ".mbv3c-scratch-file"
    file.write_text("text")
    with scratch_folder("test"):
        pass
    assert (outside / "work").is_file()
    assert link.is_symlink()
    assert file.is_file()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(temporary / "absent"))
    with pytest.raises(FileNotFoundError), scratch_folder("test"):
        pytest.fail("the block must not run")
