"""What runs, in which order, on which memory: the network as a list of kernels.

Images are NHWC from the stem to the last kernel of the family; a value that a fallback reads or
writes is laid out as in ONNX. Each value is held in one of the two layouts, or, where both are
wanted, in both.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

Array = NDArray[Any]

# Where the choices of a kernel come from: a rule, a measurement of a kernel of the same shape, or
# of one of similar sizes.
DEFAULT, TUNED, TRANSFERRED = "default", "tuned", "transferred"
ORIGINS = (DEFAULT, TUNED, TRANSFERRED)


@dataclass(frozen=True)
class Value:
    """A tensor of the network.

    Attributes:
        shape: its extents as it lies in memory.
        dtype: its element type.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Step:
    """One call of one kernel.

    Attributes:
        kind: which module of `schedules` wrote it, or "fallback".
        nodes: names of the ONNX nodes whose work it does.
        function: the kernel.
        arguments: names of values and constants, in the order of the kernel's parameters.
        writes: the values among the arguments that it writes.
        madds: multiply-adds.
        knobs: the kernel's choices by name.
        shape: what the kernel was written for, a dataclass of the module that wrote it; None where
            there was nothing to choose.
        origin: where the choices come from, one of `ORIGINS`; empty where there were none.
    """

    kind: str
    nodes: tuple[str, ...]
    function: PrimFunc
    arguments: tuple[str | Array, ...]
    writes: tuple[str, ...]
    madds: int = 0
    knobs: dict[str, int | bool | str] = field(default_factory=dict)
    shape: Any = None
    origin: str = ""

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(argument for argument in self.arguments if isinstance(argument, str))

    @property
    def constant_bytes(self) -> int:
        return sum(a.nbytes for a in self.arguments if not isinstance(a, str))


@dataclass(frozen=True)
class Held:
    """A tensor of the ONNX graph, as a value holds it.

    Attributes:
        tensor: its name.
        channels_last: whether an image is NHWC; its channels may be followed by some that are 0.
    """

    tensor: str
    channels_last: bool


@dataclass(frozen=True)
class Argument:
    """What an argument of a step is; None where that is no tensor of the graph.

    Attributes:
        value: the value in which it lies.
        reads: what it is before the call, if the kernel reads it.
        writes: what it is after the call, if the kernel writes it.
    """

    value: str
    reads: Held | None
    writes: Held | None


@dataclass
class Plan:
    """The network as kernels.

    Attributes:
        input, outputs: names of the values that enter and leave.
        input_shape, output_shapes: as the ONNX graph declares them.
        values: every value by name.
        steps: the kernels in the order in which they run.
        held: what values hold once so many steps have run.
    """

    input: str
    input_shape: tuple[int, ...]
    outputs: tuple[str, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    held: list[tuple[int, str, Held]] = field(default_factory=list)

    def hold(self, tensor: str, value: str, *, channels_last: bool) -> None:
        """Remember which tensor of the graph a value holds after the steps so far."""
        self.held.append((len(self.steps), value, Held(tensor, channels_last)))

    def arguments(self) -> list[tuple[Argument | None, ...]]:
        """Say of every step what its arguments are; None for constants."""
        made: dict[str, int] = {}  # the step that wrote a value last
        known: dict[tuple[str, int], Held] = {}
        rows = []
        for at, step in enumerate(self.steps):
            self._add_known(at, made, known)
            read = {name: made.get(name, -1) for name in step.values}
            fresh = {name for name in step.writes if name not in made and name != self.input}
            made.update(dict.fromkeys(step.writes, at))
            rows.append((step, read, fresh, at))
        self._add_known(len(self.steps), made, known)
        return [
            tuple(
                Argument(
                    one,
                    None if one in fresh else known.get((one, read[one])),
                    known.get((one, at)) if one in step.writes else None,
                )
                if isinstance(one, str)
                else None
                for one in step.arguments
            )
            for step, read, fresh, at in rows
        ]

    def _add_known(
        self, steps: int, made: dict[str, int], known: dict[tuple[str, int], Held]
    ) -> None:
        for after, value, held in self.held:
            if after == steps:
                known.setdefault((value, made.get(value, -1)), held)

    def bytes_moved(self, step: Step) -> int:
        """Return the bytes of all tensors that a step reads or writes, each counted once."""
        return step.constant_bytes + sum(self.values[name].bytes for name in set(step.values))
