"""The processes below this one, on Linux: their memory, and how they are ended."""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_COUNTED = (b"RssAnon:", b"RssShmem:")


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have Linux send this process a signal when the one that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children_of(process: int) -> list[int]:
    """Return the processes that a process has started and that are not reaped yet."""
    found: list[int] = []
    if not Path(
        f"/proc/{process}/task/{process}/children"
    ).exists():  # the kernel does not list them
        return [one for one in _all() if _parent(one) == process]
    with suppress(FileNotFoundError, ProcessLookupError):  # it ends
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_bytes().split())
    return found


def descendants_of(process: int) -> list[int]:
    """Return all processes below a process, the nearest first."""
    found = children_of(process)
    for one in found:  # grows while it is gone through
        found += (other for other in children_of(one) if other not in found)
    return found


def memory_of(process: int) -> int:
    """Return the bytes in memory that belong to a process alone, or that it shares; 0 if gone.

    Files that are mapped do not count: the system takes them out of memory when it needs to.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_COUNTED))


def state_of(process: int) -> tuple[bool, float]:
    """Return whether a process was stopped, as by Ctrl-Z, and its seconds of processor time."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False, 0.0
    fields = status.rpartition(b")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return fields[0] in (b"T", b"t"), ticks / os.sysconf("SC_CLK_TCK")


def available_memory() -> int | None:
    """Return the bytes that processes can still get, within the limits of control groups."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        groups = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    fields = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    free = [fields.get("MemAvailable", 0) + fields.get("SwapFree", 0)]
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            free += _group_free(Path("/sys/fs/cgroup"), name, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            free += _group_free(Path("/sys/fs/cgroup/memory"), name, *names)
    return min(free)


def kill_below(seconds: float = 5.0) -> bool:
    """Kill all processes below this one, which adopts orphans, and reap them.

    Returns:
        Whether none is left.
    """
    end = time.monotonic() + seconds
    while True:
        for process in descendants_of(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.005)


def _group_free(root: Path, name: str, limit: str, usage: str) -> list[int]:
    """Return what a control group and those around it leave; nothing where there is no limit."""
    found: list[int] = []
    folder = root / name.lstrip("/")
    folders = (folder, *folder.parents) if folder.is_dir() else (root,)
    for each in folders:
        if not each.is_relative_to(root):
            break
        with suppress(OSError, ValueError):  # "max" is no limit
            most = int((each / limit).read_text())
            used = int((each / usage).read_text())
            cached = dict(
                line.split() for line in (each / "memory.stat").read_text().splitlines()
            ).get("inactive_file", "0")
            found.append(max(0, most - used + int(cached)))
    return found


def _all() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return 0
    return int(status.rpartition(b")")[2].split()[1])
