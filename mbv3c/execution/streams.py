"""Run a bundle on many inputs: one process for all of them, fed while others compute."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import IO, Protocol

from mbv3c.errors import ToolError
from mbv3c.execution.npy_stream import read_array, written
from mbv3c.execution.runners import Runner, StreamingRunner, Tensor

SECONDS = 600.0  # that one input may take; a Large in an emulator takes a few

_AT_ONCE = 16  # inputs per process where every process is a new one
_SHOWN_LINES = 12


class Stream(Protocol):
    """Runs a bundle on inputs that are sent, and gives the outputs back in the same order.

    Attributes:
        at_once: how many inputs are best sent together.
    """

    @property
    def at_once(self) -> int: ...

    def send(self, inputs: list[Tensor]) -> None:
        """Start to compute; `receive` must be called before the next `send`.

        Raises:
            ToolError: the process that computes is gone.
        """
        ...

    def receive(self) -> list[list[Tensor]]:
        """Wait for the outputs of every input that was sent.

        Raises:
            ToolError: the process that computes failed, or took too long.
        """
        ...


@contextmanager
def open_stream(
    runner: Runner, bundle: Path, outputs: int, seconds: float = SECONDS
) -> Iterator[Stream]:
    """Start what runs a bundle, and end it afterwards in any case.

    A runner that cannot be fed is called with many inputs at once, in a thread.

    Args:
        runner: what runs the bundle.
        bundle: the bundle, or a folder with its library.
        outputs: how many the model has.
        seconds: that the process may take for one input.

    Raises:
        ToolError: the process cannot be started.
    """
    if not isinstance(runner, StreamingRunner):
        with ThreadPoolExecutor(1) as pool:
            yield _Calls(runner, bundle, pool)
        return
    with tempfile.TemporaryFile() as errors:
        process = _start(runner.stream_command(bundle), errors)
        try:
            yield _Process(process, errors, runner.description, outputs, seconds)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()


def _start(command: list[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    # Beside onnxruntime and the threads that decode images; TVM would take and pin all processors.
    threads = max(1, (os.cpu_count() or 1) // 2)
    own = {"TVM_NUM_THREADS": str(threads), "TVM_BIND_THREADS": "0"}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **own},
            process_group=0,  # Ctrl-C is for us
        )
    except OSError as error:
        raise ToolError(f"cannot start {command[0]}: {error.strerror}") from error


class _Process:
    """A process that reads arrays and writes arrays."""

    at_once = 1

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        errors: IO[bytes],
        description: str,
        outputs: int,
        seconds: float,
    ) -> None:
        self._process, self._errors, self._description = process, errors, description
        self._outputs, self._seconds = outputs, seconds
        self._sent = 0
        self._ended = False

    def send(self, inputs: list[Tensor]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        self._sent = len(inputs)
        try:
            for x in inputs:
                pipe.write(written(x))
                pipe.flush()
        except BrokenPipeError as error:
            raise self._failure() from error

    def receive(self) -> list[list[Tensor]]:
        late = Timer(self._seconds * max(1, self._sent), self._end)
        late.daemon = True
        late.start()
        try:
            return [[self._next() for _ in range(self._outputs)] for _ in range(self._sent)]
        except (EOFError, ValueError) as error:
            if self._ended:
                raise ToolError(
                    f"running the bundle on {self._description} took more than "
                    f"{self._seconds:g} s for an input and was ended"
                ) from error
            raise self._failure() from error
        finally:
            late.cancel()

    def _end(self) -> None:
        self._ended = True
        self._process.kill()

    def _next(self) -> Tensor:
        pipe = self._process.stdout
        assert pipe is not None
        array = read_array(pipe)  # type: ignore[arg-type]
        if array is None:
            raise EOFError("the process ended")
        return array

    def _failure(self) -> ToolError:
        self._process.kill()
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        shown = "\n".join(lines[-_SHOWN_LINES:]) or "(none)"
        return ToolError(
            f"running the bundle on {self._description} ended with status {status}; what was "
            f"computed before is kept. Its last lines:\n{shown}"
        )


class _Calls:
    """Calls of a runner, in a thread of their own."""

    at_once = _AT_ONCE

    def __init__(self, runner: Runner, bundle: Path, pool: ThreadPoolExecutor) -> None:
        self._runner, self._bundle, self._pool = runner, bundle, pool
        self._under_way: Future[list[list[Tensor]]] | None = None

    def send(self, inputs: list[Tensor]) -> None:
        self._under_way = self._pool.submit(self._runner.run, self._bundle, inputs)

    def receive(self) -> list[list[Tensor]]:
        assert self._under_way is not None
        return self._under_way.result()
