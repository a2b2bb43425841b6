"""Files and folders appear whole or not at all, whatever fails."""

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mbv3c.atomic import beside, need_space, new_file, new_folder
from mbv3c.errors import BundleError, Mbv3cError, UsageError

FULL = Path("/dev/full")  # every write to it fails as on a full disk


class FailureError(Exception):
    """What goes wrong inside of a block in these tests."""


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder, hidden ones too, with its text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    """Return what lies in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def old_folder(tmp_path: Path) -> Path:
    """Make a folder whose files a new one will not have."""
    path = tmp_path / "bundle"
    (path / "deep").mkdir(parents=True)
    (path / "old.txt").write_text("old")
    (path / "deep" / "old.txt").write_text("old")
    return path


# ---- files ----


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with new_file(path, force=False) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.suffix == ".txt"  # some writers choose their format by it
    assert contents(tmp_path) == {"file.txt": "new"}


def test_nothing_is_left_of_a_file_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(FailureError), new_file(tmp_path / "file.txt", force=False) as temporary:
        temporary.write_text("half")
        raise FailureError
    assert names(tmp_path) == []


def test_nothing_is_left_of_a_file_after_an_interrupt(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        new_file(tmp_path / "file.txt", force=False) as temporary,
    ):
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"file\.txt exists; write over it with --force"):  # noqa: SIM117
        with new_file(path, force=False):
            pytest.fail("the block must not run")
    assert contents(tmp_path) == {"file.txt": "old"}


def test_force_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with new_file(path, force=True) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"file.txt": "new"}


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FailureError), new_file(path, force=True) as temporary:
        temporary.write_text("half")
        raise FailureError
    assert contents(tmp_path) == {"file.txt": "old"}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_never_replaces_a_folder(tmp_path: Path, force: bool) -> None:
    path = old_folder(tmp_path)
    with pytest.raises(UsageError, match="is a folder; name a file"), new_file(path, force=force):
        pytest.fail("the block must not run")
    assert len(contents(path)) == 2


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    message = r"cannot write .*file\.txt: No space left on device; nothing was changed, free some"
    with pytest.raises(BundleError, match=message), new_file(path, force=True) as temporary:
        temporary.symlink_to(FULL)
        temporary.write_text("new")
    assert contents(tmp_path) == {"file.txt": "old"}


# ---- folders ----


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with new_folder(path, force=False) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "new.txt").write_text("new")
        assert not path.exists()
    assert contents(tmp_path) == {"bundle/deep/new.txt": "new"}


def test_a_link_to_nothing_may_be_in_a_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder", force=False) as new:
        (new / "link").symlink_to("../share/not-here")
    assert (tmp_path / "folder" / "link").is_symlink()


def test_a_folder_may_be_read_by_others(tmp_path: Path) -> None:
    """A temporary folder belongs to one user alone; what becomes of it follows the umask."""
    usual = tmp_path / "usual"
    usual.mkdir()
    with new_folder(tmp_path / "bundle", force=False):
        pass
    assert (tmp_path / "bundle").stat().st_mode == usual.stat().st_mode


def test_nothing_is_left_of_a_folder_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(FailureError), new_folder(tmp_path / "bundle", force=False) as temporary:
        (temporary / "new.txt").write_text("half")
        raise FailureError
    assert names(tmp_path) == []


def test_an_existing_folder_is_kept_without_force(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="--force"), new_folder(path, force=False):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == before


def test_force_replaces_the_whole_folder(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    with new_folder(path, force=True) as temporary:
        (temporary / "new.txt").write_text("new")
        assert len(contents(path)) == 2  # the old one stands until the new one is whole
    assert contents(tmp_path) == {"bundle/new.txt": "new"}
    assert names(tmp_path) == ["bundle"]


def test_force_replaces_a_file_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_text("old")
    with new_folder(path, force=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert contents(tmp_path) == {"bundle/new.txt": "new"}


def test_force_makes_a_folder_where_there_was_none(tmp_path: Path) -> None:
    with new_folder(tmp_path / "bundle", force=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert contents(tmp_path) == {"bundle/new.txt": "new"}


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FailureError), new_folder(path, force=True) as temporary:
        (temporary / "new.txt").write_text("half")
        raise FailureError
    assert contents(tmp_path) == before
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_no_new_folder(tmp_path: Path, force: bool) -> None:
    path = old_folder(tmp_path) if force else tmp_path / "bundle"
    before, listed = contents(tmp_path), names(tmp_path)
    message = (
        "cannot write .*bundle: No space left on device; nothing was changed, free some space"
    )
    with pytest.raises(BundleError, match=message), new_folder(path, force=force) as temporary:
        (temporary / "first.txt").write_text("whole")
        with FULL.open("w") as file:
            file.write("half")
    assert contents(tmp_path) == before
    assert names(tmp_path) == listed


LIMITED = """
import resource, sys
from pathlib import Path
from mbv3c.atomic import new_file, new_folder
from mbv3c.errors import BundleError

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
path, kind = Path(sys.argv[1]), sys.argv[2]
try:
    if kind == "folder":
        with new_folder(path, force=True) as folder:
            (folder / "small").write_bytes(bytes(100))
            (folder / "large").write_bytes(bytes(10_000))
    else:
        with new_file(path, force=True) as file:
            file.write_bytes(bytes(10_000))
except BundleError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_file_beyond_the_limit_of_the_process(tmp_path: Path, kind: str, existing: bool) -> None:
    """The limit stops a write in the middle: the first 4096 bytes are on the disk by then."""
    path = tmp_path / "bundle"
    if existing:
        path = old_folder(tmp_path) if kind == "folder" else path
        if kind == "file":
            path.write_text("old")
    before, listed = contents(tmp_path), names(tmp_path)
    command = [sys.executable, "-c", LIMITED, str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"refused: cannot write {path}: File too large; nothing was changed" in done.stderr
    assert "choose another place" in done.stderr
    assert contents(tmp_path) == before
    assert names(tmp_path) == listed


KILLED = """
import os, signal, sys
from pathlib import Path
from mbv3c.atomic import new_folder

with new_folder(Path(sys.argv[1]), force=True) as folder:
    (folder / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_the_old_folder_and_the_next_run_clears_up(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    before = contents(path)
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert contents(path) == before
    assert len(names(tmp_path)) == 2  # the half of a folder, under a temporary name
    with new_folder(path, force=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(tmp_path) == ["bundle"]


def test_a_run_that_still_goes_on_keeps_its_temporary_folder(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with new_folder(path, force=True) as first:
        (first / "first.txt").write_text("first")
        with new_folder(path, force=True) as second:
            (second / "second.txt").write_text("second")
        assert contents(first) == {"first.txt": "first"}
    assert contents(tmp_path) == {"bundle/first.txt": "first"}


def test_what_the_user_put_beside_it_stays(tmp_path: Path) -> None:
    for name in (".bundle.bak", ".bundle.2999999999.bak", "bundle.1.2"):
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "bundle", force=False):
        pass
    assert names(tmp_path) == [".bundle.2999999999.bak", ".bundle.bak", "bundle", "bundle.1.2"]


def test_space_is_asked_for_beforehand(tmp_path: Path) -> None:
    need_space(tmp_path / "bundle", 1)
    with pytest.raises(BundleError, match=r"takes about 1099511627776 MiB .* free some space"):
        need_space(tmp_path / "bundle", 1 << 60)


def test_the_folder_around_it_must_exist(tmp_path: Path) -> None:
    message = r"the folder .*absent does not exist; make it first"
    for new in (new_file, new_folder):
        with pytest.raises(UsageError, match=message), new(tmp_path / "absent" / "x", force=False):
            pytest.fail("the block must not run")
    assert names(tmp_path) == []


def test_errors_of_other_kinds_pass_through(tmp_path: Path) -> None:
    """A missing input is not a failed write, and must not be told as one."""
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "bundle", force=False):
        (tmp_path / "absent").read_text()
    assert names(tmp_path) == []


def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(target)
    with new_folder(link, force=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert not link.is_symlink()
    assert contents(link) == {"new.txt": "new"}
    assert len(contents(target)) == 2


def test_a_link_to_nothing_is_an_error_of_the_user(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "absent")
    with pytest.raises(Mbv3cError), new_folder(link, force=False) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(tmp_path) == ["link"]


def test_the_current_folder_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_folder(tmp_path)
    before = contents(tmp_path)
    monkeypatch.chdir(path)
    with pytest.raises(Mbv3cError), new_folder(Path(), force=True) as temporary:
        (temporary / "new.txt").write_text("new")
    assert contents(tmp_path) == before


# ---- several runs, and what is no file ----


@pytest.fixture(params=["renameat2", "rename"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's atomic renaming, and have none, as on some file systems."""
    if request.param == "rename":
        monkeypatch.setattr("mbv3c.atomic._renamed", lambda new, place, flag: False)


@pytest.mark.usefixtures("renaming")
@pytest.mark.parametrize("new", [new_file, new_folder])
def test_of_two_runs_without_force_one_wins_and_one_says_so(tmp_path: Path, new: Any) -> None:
    path = tmp_path / "out"

    def write(place: Path, text: str) -> None:
        (place / "text" if place.is_dir() else place).write_text(text)

    with (
        pytest.raises(UsageError, match=r"another run has written .*out meanwhile; what it wrote"),
        new(path, force=False) as slow,
    ):
        with new(path, force=False) as fast:
            write(fast, "fast")
        write(slow, "slow")
    assert list(contents(tmp_path).values()) == ["fast"]
    assert names(tmp_path) == ["out"]


def test_runs_that_replace_one_folder_all_end_well(tmp_path: Path) -> None:
    path = old_folder(tmp_path)

    def replace(number: int) -> None:
        for _ in range(20):
            with new_folder(path, force=True) as folder:
                (folder / "number").write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replace, range(4)))
    assert names(tmp_path) == ["bundle"]
    assert names(path) == ["number"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        with new_file(pipe, force=False) as temporary:
            temporary.write_text("news")
        assert read.result() == "news"
    assert pipe.is_fifo()


@pytest.mark.parametrize("force", [False, True])
def test_a_device_is_written_to_and_stays_one(force: bool) -> None:
    with new_file(Path(os.devnull), force=force) as temporary:
        temporary.write_text("news")
    assert Path(os.devnull).is_char_device()
    with pytest.raises(BundleError, match="cannot write /dev/full: No space left"):  # noqa: SIM117
        with new_file(FULL, force=force) as temporary:
            temporary.write_text("news")


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_socket_is_not_replaced(tmp_path: Path, new: Any) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(UsageError, match=r"is a socket|or a socket"), new(path, force=True):
            pytest.fail("the block must not run")
    assert path.is_socket()


def test_standard_output_that_is_a_file_gets_the_bytes_after_what_it_has(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from mbv3c.atomic import new_file\n"
        "with new_file(Path('/dev/stdout'), force=False) as file: file.write_text('news')\n"
    )
    with (tmp_path / "out").open("w") as out:
        out.write("good ")
        out.flush()
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert contents(tmp_path) == {"out": "good news"}


@pytest.mark.parametrize("new", [new_file, new_folder])
@pytest.mark.parametrize("force", [False, True])
def test_a_dash_is_no_name(tmp_path: Path, new: Any, force: bool) -> None:
    with (
        contextlib.chdir(tmp_path),
        pytest.raises(UsageError, match="- is no place to write to: name a file, such as /dev/"),
        new(Path("-"), force=force),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/fd/1"])
def test_a_folder_takes_no_devices_place(path: str) -> None:
    with (
        pytest.raises(UsageError, match="is a device or a pipe"),
        new_folder(Path(path), force=True),
    ):
        pytest.fail("the block must not run")


def test_what_belongs_to_a_device_lies_in_the_current_folder() -> None:
    assert beside(Path("/dev/null"), ".train") == Path("null.train")
    assert beside(Path("/tmp/a.onnx"), ".train") == Path("/tmp/a.onnx.train")
