"""What runs a library here: one input in this process, or one after the other in its own.

A process runs a bundle on one input after the other:

    python -m mbv3c.execution.runners MODULE:FUNCTION BUNDLE

The function opens the bundle and returns what runs it on one input. The process reads .npy arrays
from standard input until that ends, and writes the outputs of each to standard output, as
`mbv3c_run --stream` does on a board.
"""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from threading import Timer
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.feeds import Array, Feed
from mbv3c.lowering.describe import KernelRecord

if TYPE_CHECKING:
    from mbv3c.execution.emulator.blocks import Counted
    from mbv3c.execution.emulator.cycles import Estimator


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel within an inference, with other inputs, whose outputs are wanted.

    Attributes:
        kernel: name of the kernel in the library.
        given: arrays to write over arguments before the kernel runs, by position.
        wanted: types of the arguments whose memory is wanted after the kernel ran, by position.
    """

    kernel: str
    given: dict[int, NDArray[Any]] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)


# The memory of the arguments that were wanted of a call, flat, by position.
Made = dict[int, NDArray[Any]]


class Runner(Protocol):
    """Runs the library of a bundle.

    Attributes:
        description: name of what executes the library, for reports.
    """

    @property
    def description(self) -> str: ...

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        """Run `model.so` of a bundle once per input and return the outputs of each.

        Raises:
            Mbv3cError: the library does not load or fails.
        """


class NoStopsError(ToolError):
    """What runs a library does not stop between its kernels."""


@runtime_checkable
class KernelRunner(Runner, Protocol):
    """Also stops before and after every kernel."""

    def run_kernels(self, bundle: Path, x: Feed, calls: Sequence[KernelCall]) -> list[Made]:
        """Run `model.so` once with other inputs for its kernels; return what was wanted of each.

        Raises:
            NoStopsError: it does not stop, after all.
            Mbv3cError: the library does not load or fails, or calls other kernels than `calls`,
                or with arguments of another size.
        """


@runtime_checkable
class StreamingRunner(Runner, Protocol):
    """Also runs in a process of its own that takes one input after the other."""

    def stream_command(self, bundle: Path) -> list[str]:
        """Return the command of a process that answers arrays, as `stream_server` does."""


@runtime_checkable
class CountingRunner(Runner, Protocol):
    """Runs a bundle, and counts what that executes.

    Attributes:
        cpu: the emulated processor.
    """

    @property
    def cpu(self) -> str: ...

    def count(self, feed: Feed) -> "Counted":
        """Count the instructions of one inference, by the functions of the library.

        Raises:
            ToolError: the program fails, or the emulator cannot count.
        """


def check_names(bundle: Path, names: Sequence[str], calls: Sequence[KernelCall]) -> None:
    """Make sure that a library called the kernels that were expected.

    Args:
        bundle: folder of the bundle, for the message.
        names: names of the kernels that the library called, in order.
        calls: calls that the manifest lists, in order.

    Raises:
        Mbv3cError: it called others.
    """
    if list(names) != [call.kernel for call in calls]:
        raise Mbv3cError(
            f"{bundle / LIBRARY} calls other kernels than its manifest says; compile it again"
        )


@dataclass(frozen=True)
class Runnable:
    """What runs a bundle, or stands in for it.

    Attributes:
        folder: the folder with the program.
        runner: what runs the program.
        ran_on: what executes it, as reports name it.
        exact_program: whether it is the bundle's own program.
        kernels: the kernels that `runner` can run one by one, as `describe` lists them.
        estimator: what estimates cycles from counted instructions; None where nothing does.
    """

    folder: Path
    runner: Runner
    ran_on: str
    exact_program: bool = True
    kernels: Sequence[KernelRecord] = ()
    estimator: "Estimator | None" = None


_MAGIC = 8  # bytes: the magic string and the version
_LENGTH = 2  # of the header's length, in version 1, which is what numpy writes for plain arrays


def written(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a .npy file, in C order."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array, order="C"), version=(1, 0))
    return stream.getvalue()


def read_array(stream: io.BufferedReader) -> Array | None:
    """Read the next .npy array from a stream; None where the stream ends before one.

    Raises:
        EOFError: it ends within an array.
        ValueError: what comes is no such array.
    """
    start = stream.read(_MAGIC + _LENGTH)
    if not start:
        return None
    if len(start) < _MAGIC + _LENGTH:
        raise EOFError("the stream ends within the header of an array")
    if np.lib.format.read_magic(io.BytesIO(start)) != (1, 0):
        raise ValueError("an array of another version than 1.0 of .npy")
    length = int.from_bytes(start[_MAGIC:], "little")
    text = io.BytesIO(start[_MAGIC:] + stream.read(length))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(text)
    if fortran or dtype.hasobject:
        raise ValueError(f"an array of {dtype}, not of numbers in C order")
    array: Array = np.empty(shape, dtype)
    if array.size and stream.readinto(array.data.cast("B")) != array.nbytes:
        raise EOFError("the stream ends within an array")
    return array


Infer = Callable[[Feed], list[Array]]


def server_command(opener: Callable[[Path], Infer], bundle: Path) -> list[str]:
    """Return the command that starts the process; `opener` is a function of a module."""
    name = f"{opener.__module__}:{opener.__qualname__}"
    return [sys.executable, "-m", __name__, name, str(bundle)]


def main(opener: str, bundle: str) -> None:
    """Open the bundle and answer until the input ends."""
    # Libraries may print; our answers keep the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    infer, inputs = resolve_name(opener)(Path(bundle)), os.fdopen(0, "rb")
    while (x := read_array(inputs)) is not None:
        for output in infer(x):
            answers.write(written(output))
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])


SECONDS = 600.0  # that one input may take; a Large in an emulator takes a few

_AT_ONCE = 16  # inputs per process where every process is a new one
_SHOWN_LINES = 12


class Stream(Protocol):
    """Runs a bundle on inputs that are sent, and gives the outputs back in their order.

    Attributes:
        at_once: number of inputs that are best sent together.
    """

    @property
    def at_once(self) -> int: ...

    def send(self, inputs: list[Array]) -> None:
        """Start to compute; `receive` must be called before the next `send`.

        Raises:
            ToolError: the process that computes is gone.
        """

    def receive(self) -> list[list[Array]]:
        """Wait for the outputs of every input that was sent.

        Raises:
            ToolError: the process that computes failed, or took too long.
        """


@contextmanager
def open_stream(
    runner: Runner, bundle: Path, outputs: int, seconds: float = SECONDS
) -> Iterator[Stream]:
    """Start what runs a bundle, and end it afterwards in any case.

    A runner that cannot be fed is called with many inputs at once, in a thread.

    Args:
        runner: what runs the bundle.
        bundle: folder of the bundle, or with its library alone.
        outputs: number of the model's outputs.
        seconds: time that the process may take for one input.

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

    def send(self, inputs: list[Array]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        self._sent = len(inputs)
        try:
            for x in inputs:
                pipe.write(written(x))
                pipe.flush()
        except BrokenPipeError as error:
            raise self._failure() from error

    def receive(self) -> list[list[Array]]:
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

    def _next(self) -> Array:
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
        self._under_way: Future[list[list[Array]]] | None = None

    def send(self, inputs: list[Array]) -> None:
        feeds = list[Feed](inputs)
        self._under_way = self._pool.submit(self._runner.run, self._bundle, feeds)

    def receive(self) -> list[list[Array]]:
        assert self._under_way is not None
        return self._under_way.result()
