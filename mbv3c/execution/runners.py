"""Who can run a library here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError

Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel within an inference: what it gets instead, and what is wanted of it.

    Attributes:
        kernel: its name in the library.
        given: what to write over its arguments before it runs, by their positions.
        wanted: the types of the arguments whose memory is wanted after it ran, by position.
    """

    kernel: str
    given: dict[int, NDArray[Any]] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)


# What was wanted of a call: the arguments' memory, flat, by position.
Made = dict[int, NDArray[Any]]


class Runner(Protocol):
    """Runs the library of a bundle.

    Attributes:
        description: what executes it, as reports name it.
    """

    @property
    def description(self) -> str: ...

    def run(self, bundle: Path, inputs: list[Tensor]) -> list[list[Tensor]]:
        """Run `model.so` of a bundle once per input and return the outputs of each.

        Raises:
            Mbv3cError: the library does not load or fails.
        """
        ...


@runtime_checkable
class KernelRunner(Runner, Protocol):
    """Also stops before and after every kernel."""

    def run_kernels(self, bundle: Path, x: Tensor, calls: Sequence[KernelCall]) -> list[Made]:
        """Run `model.so` once with other inputs for its kernels; return what was wanted of each.

        Raises:
            Mbv3cError: the library does not load or fails, or calls other kernels than `calls`,
                or with arguments of another size.
        """
        ...


@runtime_checkable
class StreamingRunner(Runner, Protocol):
    """Also runs in a process of its own that takes one input after the other."""

    def stream_command(self, bundle: Path) -> list[str]:
        """Return the command of a process that answers arrays, as `stream_server` does."""
        ...


def check_names(bundle: Path, names: Sequence[str], calls: Sequence[KernelCall]) -> None:
    """Make sure that a library called the kernels that were expected.

    Args:
        bundle: the bundle, for the message.
        names: the kernels that the library called, in order.
        calls: the calls that its manifest says.

    Raises:
        Mbv3cError: it called others.
    """
    if list(names) != [call.kernel for call in calls]:
        raise Mbv3cError(
            f"{bundle / LIBRARY} calls other kernels than its manifest says; compile it again"
        )
