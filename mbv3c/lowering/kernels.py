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
        constants: the arguments after the first input: weights, packed as the kernel reads them.
        knobs: the choices, a dataclass; None if the kernel has no knobs.
        shape: the shape that the kernel was written for, a dataclass; None without knobs.
        origin: source of the choices, one of `ORIGINS`; empty without knobs.
    """

    function: PrimFunc
    constants: tuple[Array, ...] = ()
    knobs: Any = None
    shape: Any = None
    origin: str = ""


class Kernels(Protocol):
    """Writes kernels for a kind of processor; weights are as in ONNX, those of products [N, K].

    `schedule` takes what TVM wrote for an operator that no other method covers.
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
        """Return the best knobs of a kernel of a kind and a shape; None if it was not measured."""
        ...

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the best knobs of a similar kernel; None if no similar kernel was measured."""
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

    Measured knobs that are not legal here are not used: they come from another version, or from a
    similar shape.
    """
    for find, origin in ((choices.find, TUNED), (choices.near, TRANSFERRED)):
        knobs = find(kind, shape)
        if knobs is not None:
            for tile in schedule.legal(shape, processor):
                if asdict(tile) == knobs:
                    return tile, origin
    return schedule.default(shape, processor), DEFAULT
