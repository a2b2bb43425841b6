"""What a command is doing, on a board that the process which watches over it reads.

The board is memory that processes share: what stands on it outlives the process that wrote it,
however that one ended. Without a watching process (`mbv3c.supervisor`) nothing is written.
"""

import faulthandler
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<qqqqd")  # step's number, process, code + 1, length of places, seconds
_STEP = struct.Struct("<i")  # length of a step's text
_PLACES = 4096  # where the places begin; the step's text ends before it
_SIZE = 1 << 18
_LONGEST_STEP = 3000


@dataclass(frozen=True)
class Step:
    """What is being done.

    Attributes:
        number: counts steps up.
        what: as a part of a sentence, such as "simplifying the graph".
        library: the library that does it; empty if several do.
        seconds: what it may take; 0 for any time.
    """

    number: int
    what: str
    library: str
    seconds: float


class Board:
    """What a command tells about itself; made before the command's process is started."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)  # shared with processes that are forked
        self._trace = os.memfd_create("mbv3c-trace")

    def begin(self) -> None:
        """Say that this process is the command; its crashes leave a trace from now on."""
        self._write(1, os.getpid())
        self.catch_crashes()

    def catch_crashes(self) -> None:
        """Have crashes leave a trace, also after a library has set a handler of its own."""
        faulthandler.disable()
        faulthandler.enable(self._trace, all_threads=False)

    def end(self, code: int) -> None:
        """Say that the command is done, with an exit code, whatever the process ends by."""
        self._write(2, code + 1)

    def show(self, what: str, library: str, seconds: float) -> None:
        """Write down the step that begins."""
        text = f"{library}\n{what}".encode(errors="replace")[:_LONGEST_STEP]
        start = _HEADER.size
        self._memory[start : start + _STEP.size + len(text)] = _STEP.pack(len(text)) + text
        struct.pack_into("<d", self._memory, _HEADER.size - 8, seconds)
        self._write(0, self._read(0) + 1)

    def add_place(self, folder: Path, pattern: str) -> None:
        """Write down where folders of this run may be left, by their names' pattern."""
        line = os.fsencode(folder) + b"\0" + os.fsencode(pattern) + b"\0"
        length = self._read(3)
        if _PLACES + length + len(line) <= _SIZE:
            self._memory[_PLACES + length : _PLACES + length + len(line)] = line
            self._write(3, length + len(line))

    @property
    def process(self) -> int:
        """The command's process; 0 until it has begun."""
        return self._read(1)

    @property
    def code(self) -> int | None:
        """The exit code of a command that is done."""
        written = self._read(2)
        return written - 1 if written else None

    @property
    def step(self) -> Step:
        """What the command is doing, or was when it ended."""
        (length,) = _STEP.unpack_from(self._memory, _HEADER.size)
        start = _HEADER.size + _STEP.size
        text = self._memory[start : start + length].decode(errors="replace")
        library, _, what = text.partition("\n")
        (seconds,) = struct.unpack_from("<d", self._memory, _HEADER.size - 8)
        return Step(self._read(0), what or "starting", library, seconds)

    @property
    def places(self) -> list[tuple[Path, str]]:
        """Where folders may be left, and patterns of their names."""
        parts = self._memory[_PLACES : _PLACES + self._read(3)].split(b"\0")[:-1]
        texts = [os.fsdecode(part) for part in parts]
        return [(Path(one), two) for one, two in zip(texts[::2], texts[1::2], strict=True)]

    @property
    def trace(self) -> str:
        """Where in Python the command was when it crashed; empty if it did not."""
        return os.pread(self._trace, 1 << 16, 0).decode(errors="replace")

    def _read(self, index: int) -> int:
        (number,) = struct.unpack_from("<q", self._memory, 8 * index)
        return int(number)

    def _write(self, index: int, number: int) -> None:
        struct.pack_into("<q", self._memory, 8 * index, number)


class _Steps:
    """The steps that this process is in, the outermost first."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self.stack: list[tuple[str, str, float]] = [("starting", "", 0.0)]
        self.places: set[tuple[Path, str]] = set()
        self.caught_again = False


_steps = _Steps()


def of_large() -> int:
    """Return the bytes of a large model, for steps that know no better."""
    return 300 << 20


LIMIT_VARIABLE = "MBV3C_STEP_SECONDS"
_SECONDS = 300.0  # of a step of a small model; what is seen takes less than one
_BYTES_PER_SECOND = 1 << 20


def write_steps_to(board: Board) -> None:
    """Have the steps of this process written on a board from now on."""
    _steps.board = board
    board.begin()


def supervised() -> bool:
    """Say whether another process watches over this one."""
    return _board() is not None


def say(what: str) -> None:
    """Say what is done from now on, until the next call."""
    _steps.stack[0] = (what, "", 0.0)
    _show()


def done(code: int) -> None:
    """Say that all is done and written, and with which exit code the process is about to end."""
    board = _board()
    if board is not None:
        board.end(code)


def note_place(folder: Path, pattern: str) -> None:
    """Say that this process may leave folders there, by a pattern of their names, if killed."""
    board = _board()
    if board is not None and (folder, pattern) not in _steps.places:
        _steps.places.add((folder, pattern))
        board.add_place(folder.absolute(), pattern)


@contextmanager
def step(what: str, library: str = "", size: Callable[[], int] | None = None) -> Iterator[None]:
    """Say what the block does, and which library does it.

    Args:
        what: as a part of a sentence, such as "simplifying the graph".
        library: the library's name.
        size: gives the bytes of the model, in proportion to which the block has a limit of time
            where another process watches over this one; None: it may take any time.
    """
    if _board() is None:
        yield
        return
    _steps.stack.append((what, library, 0.0 if size is None else _limit(size())))
    _show()
    try:
        yield
    finally:
        _steps.stack.pop()
        _show()


def _limit(size: int) -> float:
    base = seconds_of(os.environ.get(LIMIT_VARIABLE))
    return base and base * (1 + size / _BYTES_PER_SECOND / _SECONDS)


def seconds_of(text: str | None) -> float:
    """Return the limit of a small model's step; 0 for none."""
    if text is None:
        return _SECONDS
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0 if text == "none" else _SECONDS


def _board() -> Board | None:
    """Return the board, but not in processes that this one has forked."""
    board = _steps.board
    return board if board is not None and board.process == os.getpid() else None


def _show() -> None:
    board = _board()
    if board is None:
        return
    board.show(*_steps.stack[-1])
    if not _steps.caught_again and "tvm_ffi" in sys.modules:
        _steps.caught_again = True
        board.catch_crashes()
