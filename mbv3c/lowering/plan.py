"""What runs, in which order, on which memory: the network as a list of kernels.

Images are NHWC from the stem to the last kernel of the family. What the fallback reads and writes
is laid out as in ONNX. A tensor that is needed in both layouts lies in two values.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

Array = NDArray[Any]

# Where the choices of a kernel come from: a rule, a measurement of a kernel of the same shape, or
# a measurement of a kernel of similar sizes.
DEFAULT, TUNED, TRANSFERRED = "default", "tuned", "transferred"
ORIGINS = (DEFAULT, TUNED, TRANSFERRED)


@dataclass(frozen=True)
class Value:
    """A tensor of the network.

    Attributes:
        shape: extents in memory.
        dtype: element type.
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
        kind: name of the module of `schedules` that wrote the kernel, or "fallback".
        nodes: names of the ONNX nodes that the kernel computes.
        function: the kernel.
        arguments: names of values and constants, in the order of the kernel's parameters.
        writes: the values among the arguments that the kernel writes.
        madds: multiply-adds of the call.
        knobs: the kernel's choices by name.
        shape: the shape that the kernel was written for, a dataclass; None if the kernel has no
            knobs.
        origin: source of the choices, one of `ORIGINS`; empty if the kernel has no knobs.
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
class HeldTensor:
    """A tensor of the ONNX graph, as a value holds it.

    Attributes:
        tensor: name of the tensor.
        channels_last: whether an image is NHWC; channels that are 0 may follow those of the image.
    """

    tensor: str
    channels_last: bool


@dataclass(frozen=True)
class Argument:
    """What a value that a step is called with holds.

    Attributes:
        value: name of the value.
        reads: the tensor in the value before the call; None if the kernel does not read it, or if
            it is no tensor of the graph.
        writes: the tensor in the value after the call; None if the kernel does not write it, or if
            it is no tensor of the graph.
    """

    value: str
    reads: HeldTensor | None
    writes: HeldTensor | None


@dataclass
class Plan:
    """The network as kernels.

    Attributes:
        input, outputs: names of the values that enter and leave.
        input_shape, output_shapes: shapes that the ONNX graph declares.
        values: every value by name.
        steps: the calls of kernels, in the order in which they run.
        held: the number of steps after which a value holds a tensor, the value and the tensor.
    """

    input: str
    input_shape: tuple[int, ...]
    outputs: tuple[str, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    held: list[tuple[int, str, HeldTensor]] = field(default_factory=list)

    def hold(self, tensor: str, value: str, *, channels_last: bool) -> None:
        """Note that a value holds a tensor of the graph after the steps so far."""
        self.held.append((len(self.steps), value, HeldTensor(tensor, channels_last)))

    def arguments(self) -> list[tuple[Argument | None, ...]]:
        """Return for every step what its arguments hold; None for a constant."""
        writers: dict[str, int] = {}  # the step that wrote a value last
        holdings: dict[tuple[str, int], HeldTensor] = {}
        rows = []
        for at, step in enumerate(self.steps):
            self._add_holdings(at, writers, holdings)
            read = {name: writers.get(name, -1) for name in step.values}
            fresh = {name for name in step.writes if name not in writers and name != self.input}
            writers.update(dict.fromkeys(step.writes, at))
            rows.append((step, read, fresh, at))
        self._add_holdings(len(self.steps), writers, holdings)
        return [
            tuple(
                Argument(
                    name,
                    None if name in fresh else holdings.get((name, read[name])),
                    holdings.get((name, at)) if name in step.writes else None,
                )
                if isinstance(name, str)
                else None
                for name in step.arguments
            )
            for step, read, fresh, at in rows
        ]

    def _add_holdings(
        self, steps: int, writers: dict[str, int], holdings: dict[tuple[str, int], HeldTensor]
    ) -> None:
        for after, value, held in self.held:
            if after == steps:
                holdings.setdefault((value, writers.get(value, -1)), held)

    def bytes_moved(self, step: Step) -> int:
        """Return the bytes of all tensors that a step reads or writes, each counted once."""
        return step.constant_bytes + sum(self.values[name].bytes for name in set(step.values))
