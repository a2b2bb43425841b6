"""Run a program to its end, or end it and everything that it started."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError

_SHOWN_LINES = 12
_LOOK = 0.2  # seconds between two looks at whether to stop


@dataclass(frozen=True)
class Finished:
    """What a program left behind.

    Attributes:
        returncode: exit status; negative when a signal ended the program.
        stdout: all that it wrote to standard output.
        stderr: all that it wrote to standard error.
    """

    returncode: int
    stdout: str
    stderr: str

    def last_lines(self) -> str:
        """Return the last lines of its errors, or of its output when it reported no errors."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return "\n".join(lines[-_SHOWN_LINES:])


def finish(
    command: Sequence[str | Path],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop: threading.Event | None = None,
) -> Finished:
    """Run a program to its end, whatever its exit status.

    The program gets a process group of its own. When the time-out passes, or when an interrupt or
    any other exception arrives meanwhile, the whole group is killed.

    Args:
        command: program and its arguments.
        timeout: seconds after which the program is ended.
        environment: variables to set on top of the present environment.
        folder: working folder of the program.
        stop: event by which another thread ends the program.

    Raises:
        ToolError: the program cannot be started, ran longer than the time-out, or was stopped.
    """
    arguments = [str(part) for part in command]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=folder,
            env={**os.environ, **(environment or {})},
            process_group=0,
        )
    except OSError as error:
        raise ToolError(f"cannot start {arguments[0]}: {error.strerror}") from error
    try:
        stdout, stderr = _communicate(process, timeout, stop)
    except subprocess.TimeoutExpired as error:
        _kill_group(process)
        raise ToolError(
            f"{arguments[0]} was still running after {timeout:g} s and was ended"
        ) from error
    except BaseException:
        _kill_group(process)
        raise
    return Finished(process.returncode, stdout, stderr)


def require(
    command: Sequence[str | Path],
    *,
    doing: str,
    remedy: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run a program that must succeed.

    `doing` ("downloading the emulator") and `remedy` (what the user can do) are parts of the error
    message; the other arguments are those of `finish`.

    Raises:
        ToolError: it cannot be started, ran too long, or ended with a status other than 0.
    """
    try:
        finished = finish(command, timeout=timeout, environment=environment, folder=folder)
    except ToolError as error:
        raise ToolError(f"{doing} failed: {error}; {remedy}") from error
    if finished.returncode != 0:
        raise ToolError(
            f"{doing} failed with status {finished.returncode}; {remedy}. "
            f"The last lines of {command[0]}:\n{finished.last_lines()}"
        )
    return finished


def _communicate(
    process: subprocess.Popen[str], timeout: float, stop: threading.Event | None
) -> tuple[str, str]:
    if stop is None:
        return process.communicate(timeout=timeout)
    end = time.monotonic() + timeout
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_LOOK)
        if stop.is_set():
            raise ToolError(f"{process.args!s} was stopped")
        if time.monotonic() >= end:
            raise subprocess.TimeoutExpired(process.args, timeout)


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
