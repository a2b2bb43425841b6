"""Which commands may still be running, and which memory the next command must not touch.

A device copies while it computes. A command needs a wait before it touches what an earlier command
may still be writing, or writes what an earlier command may still be reading. OP_DMA_WAIT and
OP_KERNEL_WAIT let a number of the latest copies or operations go on and wait for all others. How
many can be under way comes from vela's `get_wait_dependency` in `register_command_stream_util.py`.

Operations follow each other in order, held apart block by block (BLOCKDEP), which is not checked.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.accelerators import Accelerator
from mbv3c.targets.ethos_u.interpreter.errors import StreamError
from mbv3c.targets.ethos_u.interpreter.registers import Command

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
