"""The process in which one job is done: `python -m mbv3c.jobs FOLDER`.

    runner ─► guard ─► job ─► what it starts

The guard and all below it are one process group. It ends the group when the runner is gone, which
it learns from a pipe; Linux ends the job when the guard is. In the folder stand `job.json`, what
is to be done, and afterwards `outcome.json`, what came of it, and `files/`.
"""

import importlib
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any, NoReturn

from mbv3c.atomic import new_file
from mbv3c.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, BundleError, Mbv3cError
from mbv3c.jobs.job import kind_of
from mbv3c.process_tree import end_with_parent
from mbv3c.progress import Progress

JOB, OUTCOME, FILES = "job.json", "outcome.json", "files"
EXIT_FULL = 74  # EX_IOERR of sysexits.h: there was no space even for saying so
_NO_SPACE = (ENOSPC, EDQUOT, EFBIG)
_HELD = "--held"
_USAGE = "usage: python -m mbv3c.jobs FOLDER"

Function = Callable[[Mapping[str, Any], Mapping[str, Path], Path, Progress], Mapping[str, Any]]


def command_of(folder: Path, held: int | None = None) -> list[str]:
    """Return the command that does the job in a folder; `held` is the pipe from the runner."""
    command = [sys.executable, "-m", "mbv3c.jobs", str(folder)]
    return command if held is None else [*command, _HELD, str(held)]


def main() -> NoReturn:
    """Do the job in the folder that the command line names, and exit."""
    match sys.argv[1:]:
        case [folder]:
            pass
        case [folder, option, held] if option == _HELD:
            _guard(int(held))
        case _:
            sys.exit(_USAGE)
    try:
        code = _do(Path(folder))
    except FileNotFoundError as error:
        sys.stderr.write(f"error: {error.filename} does not exist; {_USAGE}\n")
        code = EXIT_USAGE
    sys.stderr.flush()
    os._exit(code)  # what libraries do at the end can only fail


def _guard(held: int) -> None:
    """Become the guard, and return in the job's process."""
    guard = os.getpid()
    job = os.fork()
    if not job:
        os.close(held)
        end_with_parent()
        if os.getppid() != guard:  # it ended before Linux was told
            os._exit(EXIT_FAILED)
        return
    poll = select.poll()
    poll.register(held, select.POLLIN)
    poll.register(os.pidfd_open(job), select.POLLIN)
    if held in dict(poll.poll()):
        os.killpg(0, signal.SIGKILL)
    _, status = os.waitpid(job, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _do(folder: Path) -> int:
    asked = json.loads((folder / JOB).read_bytes())
    files = folder / FILES
    clear_attempt(folder)
    start = time.monotonic()

    def progress(text: str) -> None:
        with suppress(OSError):  # a log that nothing fits into stops no work
            sys.stderr.write(f"[{time.monotonic() - start:5.1f} s] {text}\n")
            sys.stderr.flush()

    code = EXIT_DONE
    try:
        function = _function(asked["kind"])
        inputs = {name: Path(path) for name, path in asked["files"].items()}
        outcome: dict[str, Any] = {
            "document": dict(function(asked["options"], inputs, files, progress))
        }
    except Mbv3cError as error:
        progress(f"error: {error}")
        code = error.exit_code
        outcome = {"error": {"kind": error.kind, "message": str(error), "exit_code": code}}
    except MemoryError:
        code, words = EXIT_FAILED, "it takes more memory than there is; do fewer --jobs at once"
        outcome = {"error": {"kind": "memory", "message": words, "exit_code": code}}
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        code, words = EXIT_FAILED, f"{error.strerror}: free some space and call it again"
        outcome = {"error": {"kind": "system", "message": words, "exit_code": code}}
    try:
        with new_file(folder / OUTCOME, force=True) as temporary:
            temporary.write_text(json.dumps(outcome, allow_nan=False), "utf-8")
    except BundleError:
        return EXIT_FULL
    return code


def clear_attempt(folder: Path) -> None:
    """Remove what an attempt has left, but for the files whose names begin with a dot."""
    (folder / OUTCOME).unlink(missing_ok=True)
    files = folder / FILES
    files.mkdir(exist_ok=True)
    for path in files.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _function(kind: str) -> Function:
    module, _, name = kind_of(kind).function.partition(":")
    function: Function = getattr(importlib.import_module(module), name)
    return function
