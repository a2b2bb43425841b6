"""The command line as tests run it: in this process, or in one of its own.

A process of its own takes two seconds before it begins. It is for what only a process shows:
signals, limits of the system, what native code writes, an environment without a driver.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from mbv3c import cli

Done = subprocess.CompletedProcess[str]


def mbv3c(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """Run a command in this process, from `main` to its exit code.

    What `main` calls a fault of mbv3c is raised.
    """
    given = ["mbv3c", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    code: int | str | None = None
    with (
        mock.patch.object(sys, "argv", given),
        mock.patch.dict(os.environ, environment),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(cli, "report_fault", side_effect=_raise),
    ):
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    assert isinstance(code, int)
    return Done(given, code, *(_text(stream) for stream in (out, err)))


def _raise(error: Exception) -> None:
    raise error


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def command_line(*arguments: object) -> list[str]:
    """Return what starts a command in a process of its own."""
    return [sys.executable, "-m", "mbv3c", *map(str, arguments)]


def mbv3c_process(*arguments: object, **options: Any) -> Done:
    """Run a command in a process of its own; `options` are those of `subprocess.run`."""
    return finished(command_line(*arguments), **options)


def python(*arguments: object, **environment: str) -> Done:
    """Run Python with these arguments, in this environment and some more variables."""
    return finished([sys.executable, *arguments], env={**os.environ, **environment})


def finished(command: list[Any], **options: Any) -> Done:
    """Run a command to its end, whatever its exit code; it has ten minutes."""
    settings = {"capture_output": True, "text": True, "timeout": 600, **options}
    return subprocess.run([*map(str, command)], check=False, **settings)


def document(done: Done, code: int = 0) -> dict[str, Any]:
    """Return stdout of a command that ended with `code`: one JSON document and nothing else."""
    assert done.returncode == code, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read
