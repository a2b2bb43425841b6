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

# Where the choices of a kernel come from: a rule, or a measurement of a kernel of the same shape.
DEFAULT, TUNED = "default", "tuned"
ORIGINS = (DEFAULT, TUNED)


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


@dataclass
class Plan:
    """The network as kernels.

    Attributes:
        input, outputs: names of the values that enter and leave.
        input_shape, output_shapes: as the ONNX graph declares them.
        values: every value by name.
        steps: the kernels in the order in which they run.
    """

    input: str
    input_shape: tuple[int, ...]
    outputs: tuple[str, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def bytes_moved(self, step: Step) -> int:
        """Return the bytes of all tensors that a step reads or writes, each counted once."""
        return step.constant_bytes + sum(self.values[name].bytes for name in set(step.values))
