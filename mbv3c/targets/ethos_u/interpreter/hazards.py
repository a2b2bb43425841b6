"""Which commands may still be running, and what the next one must not touch.

A device copies while it computes. A command that touches what an earlier one may still be writing,
or writes what it may still be reading, needs a wait between them: OP_DMA_WAIT and OP_KERNEL_WAIT
let so many of the latest copies or operations go on and wait for all others. How many can be under
way at all is that of vela's `get_wait_dependency` in `register_command_stream_util.py`.

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
        view: the elements themselves, in their region.
        writes: or reads.
    """

    view: NDArray[Any]
    writes: bool


class UnderWay:
    """The commands that may still be running."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._operations: deque[tuple[Command, Sequence[Access]]] = deque(maxlen=_OPERATIONS)
        self._copies: deque[tuple[Command, Sequence[Access]]] = deque(maxlen=accelerator.copies)

    def wait(self, command: Command) -> None:
        """Take over an OP_DMA_WAIT or OP_KERNEL_WAIT."""
        running = self._copies if command.name == "OP_DMA_WAIT" else self._operations
        while len(running) > command.param:
            running.popleft()

    def start_copy(self, command: Command, accesses: Sequence[Access]) -> None:
        """Begin an OP_DMA_START.

        Raises:
            StreamError: it touches what is in use.
        """
        _check(accesses, self._operations)
        if len(self._copies) == self._copies.maxlen:
            self._copies.popleft()
        _check(accesses, self._copies)
        self._copies.append((command, accesses))

    def start_operation(
        self, command: Command, accesses: Sequence[Access], *, pointwise: bool
    ) -> None:
        """Begin an operation; a pointwise one may write where it reads, element by element.

        Raises:
            StreamError: it touches what is in use, or writes over what it has yet to read.
        """
        _check(accesses, self._copies)
        _check_own(accesses, in_place=pointwise)
        self._operations.append((command, accesses))


def _check(
    accesses: Sequence[Access], running: Iterable[tuple[Command, Sequence[Access]]]
) -> None:
    for command, others in running:
        for one in accesses:
            for other in others:
                conflict = one.writes or other.writes
                if conflict and np.may_share_memory(one.view, other.view):
                    raise StreamError(
                        f"touches memory that {command.name} at word {command.word} may still be"
                        " using; a wait is missing"
                    )


def _check_own(accesses: Sequence[Access], *, in_place: bool) -> None:
    """Refuse an output that lies on an input, but for one that does so element by element."""
    read = [one.view for one in accesses if not one.writes]
    for one in accesses:
        for other in read if one.writes else ():
            if np.shares_memory(one.view, other) and not (in_place and _same(one.view, other)):
                raise StreamError("writes over its own input")


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (one.ctypes.data, one.shape, one.strides, one.itemsize) == (
        other.ctypes.data,
        other.shape,
        other.strides,
        other.itemsize,
    )
