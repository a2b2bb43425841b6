"""Kinds of jobs for tests: small work that is counted, dies, is refused, or starts processes."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.progress import Progress

Files = Mapping[str, Path]


def note(options: Mapping[str, Any]) -> None:
    """Write down that a job was done, by whom."""
    with Path(options["notes"]).open("ab", buffering=0) as notes:
        notes.write(f"{options['number']} {os.getpid()}\n".encode())


def square(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    time.sleep(options.get("seconds", 0))
    note(options)
    (folder / "below").mkdir()
    (folder / "below" / "text").write_text(f"{options['number']}")
    (folder / ".kept").write_text("no part of the result")
    read = {name: path.read_text() for name, path in files.items()}
    threads = os.environ["OMP_NUM_THREADS"]
    return {"square": options["number"] ** 2, "read": read, "threads": threads}


def die_once(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    left = folder / ".left"
    if not left.exists():
        left.touch()
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"names": sorted(path.name for path in folder.iterdir())}


def die(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    note(options)
    progress("about to crash")
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def stop(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSTOP)
    return {"went": "on"}


def talk(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    progress("half is done")
    time.sleep(0.6)
    return {}


def refuse(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    note(options)
    raise UsageError("there is no such thing; name another")


def fault(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    note(options)
    return {"nothing": 1 // 0}


def fill(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Find that the disk is full: from now on, or for everything."""
    if options["number"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def start_another(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Start a process that would live on, say its number, and wait."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    another = subprocess.Popen(command)
    Path(options["notes"]).write_text(f"{os.getpid()} {another.pid}")
    time.sleep(600)
    return {}


def wait_to_be_killed(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Say who is at work and wait, but only the first time; then do as `square`."""
    victim = Path(options["victim"])
    if not victim.exists():
        written = victim.with_suffix(".new")
        written.write_text(f"{os.getpid()} {os.environ['MBV3C_STORE']}")
        written.rename(victim)
        time.sleep(600)
    return square(options, files, folder, progress)
