"""What /proc says of processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbv3c import process_tree
from mbv3c.process_tree import children_of, descendants_of, memory_of, state_of

TWO_BELOW = "sleep 100 & echo begun; wait"
BUSY = "x = b'x' * (64 << 20); print('begun', flush=True)\nwhile True: pass"


@pytest.fixture(params=["listed", "searched"])
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a kernel that lists the children of a process, and one that does not."""
    if request.param == "searched":
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path: path.name != "children" and exists(path))


@pytest.mark.usefixtures("found")
def test_processes_below_a_process() -> None:
    with subprocess.Popen(["sh", "-c", TWO_BELOW], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "begun\n"
        (below,) = children_of(shell.pid)
        assert shell.pid in children_of(os.getpid())
        assert [one for one in descendants_of(os.getpid()) if one in (shell.pid, below)] == [
            shell.pid,
            below,
        ]
        os.kill(below, signal.SIGKILL)
        shell.kill()
    assert children_of(shell.pid) == []


def test_memory_and_time_of_a_process() -> None:
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert 64 << 20 < memory_of(process.pid) < 128 << 20
        stopped, before = state_of(process.pid)
        assert not stopped
        while state_of(process.pid)[1] <= before:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        while not state_of(process.pid)[0]:
            time.sleep(0.01)
        process.kill()
    assert memory_of(process.pid) == 0
    assert state_of(process.pid) == (False, 0.0)


def test_limits_of_control_groups(tmp_path: Path) -> None:
    """Every group around a process may have a limit; files that were read do not count."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder, most, used in ((inner, "max", 10), (inner.parent, "1000", 700)):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 200\n")
    names = ("memory.max", "memory.current")
    assert process_tree._group_free(tmp_path, "/outer/inner", *names) == [500]
    assert process_tree._group_free(tmp_path, "/elsewhere", *names) == []
