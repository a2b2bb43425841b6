"""The memory regions of a program, with every access checked, and who may still be using them.

A region knows which of its bytes were written. Reading any other byte is an error, since on a
device it would hold what the last program left.

A device copies while it computes. A command needs a wait before it touches what an earlier command
may still be writing, or writes what an earlier command may still be reading. OP_DMA_WAIT and
OP_KERNEL_WAIT let a number of the latest copies or operations go on and wait for all others. How
many can be under way comes from vela's `get_wait_dependency` in `register_command_stream_util.py`.

Operations follow each other in order, held apart block by block (BLOCKDEP), which is not checked.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mbv3c.targets.ethos_u.interpreter.program import (
    Accelerator,
    Command,
    StreamError,
)

_OPERATIONS = 2  # under way at a time


@dataclass(frozen=True)
class Access:
    """Elements that a command reads or writes.

    Attributes:
        view: the elements in their region.
        writes: whether they are written; if not, they are read.
    """

    view: NDArray[Any]
    writes: bool


class RunningCommands:
    """The commands that may still be running."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._operations: deque[tuple[Command, Sequence[Access]]] = deque(maxlen=_OPERATIONS)
        self._copies: deque[tuple[Command, Sequence[Access]]] = deque(maxlen=accelerator.copies)

    def wait(self, command: Command) -> None:
        """Execute an OP_DMA_WAIT or OP_KERNEL_WAIT."""
        running = self._copies if command.name == "OP_DMA_WAIT" else self._operations
        while len(running) > command.param:
            running.popleft()

    def start_copy(self, command: Command, accesses: Sequence[Access]) -> None:
        """Begin an OP_DMA_START.

        Raises:
            StreamError: it touches memory that is in use.
        """
        _check(accesses, self._operations)
        if len(self._copies) == self._copies.maxlen:
            self._copies.popleft()
        _check(accesses, self._copies)
        self._copies.append((command, accesses))

    def start_operation(
        self, command: Command, accesses: Sequence[Access], *, pointwise: bool
    ) -> None:
        """Begin an operation; a pointwise operation may write the elements that it reads.

        Raises:
            StreamError: it touches memory that is in use, or overwrites what it has yet to read.
        """
        _check(accesses, self._copies)
        _check_own(accesses, in_place=pointwise)
        self._operations.append((command, accesses))


def _check(
    accesses: Sequence[Access], running: Iterable[tuple[Command, Sequence[Access]]]
) -> None:
    for command, others in running:
        for access in accesses:
            for other in others:
                conflict = access.writes or other.writes
                if conflict and np.may_share_memory(access.view, other.view):
                    raise StreamError(
                        f"touches memory that {command.name} at word {command.word} may still be"
                        " using; a wait is missing"
                    )


def _check_own(accesses: Sequence[Access], *, in_place: bool) -> None:
    """Refuse an output that lies on an input, unless both are equal and `in_place` is set."""
    read = [access.view for access in accesses if not access.writes]
    for access in accesses:
        for other in read if access.writes else ():
            if in_place and _place(access.view) == _place(other):
                continue
            if np.shares_memory(access.view, other):
                raise StreamError("writes over its own input")


def _place(view: NDArray[Any]) -> tuple[Any, ...]:
    return view.ctypes.data, view.shape, view.strides, view.itemsize


class Memory:
    """Regions of bytes, by number."""

    def __init__(self, scratch: Mapping[int, int]) -> None:
        """Begin with unwritten regions of the given sizes in bytes."""
        self._bytes = {region: np.zeros(size, np.uint8) for region, size in scratch.items()}
        self._written = {region: np.zeros(size, np.bool_) for region, size in scratch.items()}
        self._constant: set[int] = set()
        self.accesses: list[Access] = []  # of the command that is being executed

    def add_constants(self, region: int, data: NDArray[np.uint8]) -> None:
        """Add a region that may only be read."""
        self._bytes[region] = data
        self._written[region] = np.ones(len(data), np.bool_)
        self._constant.add(region)

    def forget(self, region: int, start: int) -> None:
        """Treat the bytes of a region, from `start` on, as unwritten."""
        self._written[region][start:] = False
        self.accesses.append(Access(self._bytes[region][start:], writes=True))

    def load(self, region: int, address: int, size: int) -> NDArray[np.uint8]:
        """Return a copy of `size` bytes."""
        return self.read(region, address, (size,), np.uint8, (1,))

    def store(self, region: int, address: int, data: NDArray[np.uint8]) -> None:
        """Write bytes."""
        self.write(region, address, data, (1,))

    def read(
        self,
        region: int,
        address: int,
        shape: Sequence[int],
        dtype: DTypeLike,
        strides: Sequence[int],
    ) -> NDArray[Any]:
        """Return a copy of elements that lie `strides` bytes apart.

        Raises:
            StreamError: elements lie outside the region, or were not written.
        """
        kind = np.dtype(dtype)
        if not math.prod(shape):
            return np.zeros(shape, kind)
        self._check(region, address, shape, kind.itemsize, strides, "reads")
        written = np.ndarray(shape, np.bool_, self._written[region], address, tuple(strides))
        if not written.all():
            missing = written.size - np.count_nonzero(written)
            raise StreamError(
                f"reads {missing} of {written.size} elements at {address:#x} of region {region}"
                " that nothing was written to"
            )
        view: NDArray[Any] = np.ndarray(
            shape, kind, self._bytes[region].data, address, tuple(strides)
        )
        self.accesses.append(Access(view, writes=False))
        return view.copy()

    def write(
        self, region: int, address: int, values: NDArray[Any], strides: Sequence[int]
    ) -> None:
        """Write elements, `strides` bytes apart.

        Raises:
            StreamError: elements lie outside the region, or the region holds constants.
        """
        shape, kind = values.shape, values.dtype
        if not values.size:
            return
        self._check(region, address, shape, kind.itemsize, strides, "writes")
        if region in self._constant:
            raise StreamError(f"writes to region {region}, which holds the constants")
        view: NDArray[Any] = np.ndarray(shape, kind, self._bytes[region], address, tuple(strides))
        view[...] = values
        self.accesses.append(Access(view, writes=True))
        written = np.ndarray(
            (*shape, kind.itemsize), np.bool_, self._written[region], address, (*strides, 1)
        )
        written[...] = True

    def _check(
        self,
        region: int,
        address: int,
        shape: Sequence[int],
        itemsize: int,
        strides: Sequence[int],
        verb: str,
    ) -> None:
        if region not in self._bytes:
            raise StreamError(f"{verb} in region {region}, which the program does not have")
        reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
        first = address + sum(min(0, extent) for extent in reach)
        end = address + sum(max(0, extent) for extent in reach) + itemsize
        size = len(self._bytes[region])
        if first < 0 or end > size:
            raise StreamError(
                f"{verb} bytes {first:#x} to {end:#x} of region {region}, which has {size:#x}"
            )
