"""Kernels by shape, for one kind of processor: what `select` asks for."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED, Array
from mbv3c.lowering.shapes import (
    Convolution,
    Depthwise,
    Elementwise,
    GlobalPool,
    Pointwise,
    Transpose,
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """A kernel with the choices that were made for it.

    Attributes:
        function: the kernel.
        constants: its weights, packed as it reads them: its arguments after the first input.
        knobs: the choices, a dataclass; None if there are none.
        shape: what it was written for, a dataclass; None where there was nothing to choose.
        origin: where the choices come from, one of `ORIGINS`; empty if there are none.
    """

    function: PrimFunc
    constants: tuple[Array, ...] = ()
    knobs: Any = None
    shape: Any = None
    origin: str = ""


class Kernels(Protocol):
    """Writes kernels for a kind of processor; weights are as in ONNX, products [N, K].

    `schedule` takes a function that TVM wrote for an operator that none of the others cover.
    """

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel: ...
    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel: ...
    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel: ...
    def global_pool(self, shape: GlobalPool) -> Kernel: ...
    def elementwise(self, shape: Elementwise) -> Kernel: ...
    def transpose(self, shape: Transpose) -> Kernel: ...
    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc: ...


class Choices(Protocol):
    """Knows which choices were measured to be best."""

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs for a kernel of a kind and a shape; None if none were measured."""
        ...

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs of a similar kernel, for one that was not measured; None without."""
        return None


class NoChoices(Choices):
    """Nothing was measured."""

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return None


NO_CHOICES = NoChoices()


def chosen(
    schedule: Any, choices: Choices, kind: str, shape: Any, processor: Any
) -> tuple[Any, str]:
    """Return the knobs for a kernel of a kind and a shape, and where they come from.

    What was measured and is not legal here comes from another version or another shape, and is
    not used.
    """
    for find, origin in ((choices.find, TUNED), (choices.near, TRANSFERRED)):
        found = find(kind, shape)
        if found is not None:
            for tile in schedule.legal(shape, processor):
                if asdict(tile) == found:
                    return tile, origin
    return schedule.default(shape, processor), DEFAULT
