"""Kernels by shape, for one kind of processor: what `select` asks for."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.machine import Machine
from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED, Array
from mbv3c.lowering.schedules import (
    convolution,
    depthwise,
    elementwise,
    general,
    integer_convolution,
    integer_depthwise,
    integer_pointwise,
    pointwise,
    pooling,
    squeeze_excite,
)
from mbv3c.lowering.schedules.convolution import Convolution
from mbv3c.lowering.schedules.depthwise import Depthwise
from mbv3c.lowering.schedules.elementwise import Elementwise, Transpose
from mbv3c.lowering.schedules.integer_convolution import IntegerConvolution
from mbv3c.lowering.schedules.integer_depthwise import IntegerDepthwise
from mbv3c.lowering.schedules.integer_pointwise import IntegerPointwise
from mbv3c.lowering.schedules.pointwise import Pointwise
from mbv3c.lowering.schedules.pooling import GlobalPool
from mbv3c.lowering.schedules.squeeze_excite import SqueezeExcite

# Counts up when the code of a kernel changes for the same shape and knobs: what was measured
# before says nothing about it then. A test compares it with a digest of some kernels.
VERSION = 1

Floats = NDArray[np.float32]
Integers = NDArray[np.int8]


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


@dataclass(frozen=True)
class CpuKernels:
    """Kernels for the cores of a CPU.

    Those of integers take int8 weights, laid out as in ONNX, and what `rounding` has for them: of
    every output an int32 bias and an fp32 factor, and the table, if one follows.

    Attributes:
        machine: the processor.
        choices: what was measured there.
    """

    machine: Machine
    choices: Choices = NO_CHOICES

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("pointwise", shape)
        packed = pointwise.pack(shape, tile, self.machine, weights)
        function = pointwise.generate(shape, tile, self.machine)
        return Kernel(function, (packed, bias), tile, shape, origin)

    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("depthwise", shape)
        function = depthwise.generate(shape, tile, self.machine)
        return Kernel(function, (depthwise.pack(weights), bias), tile, shape, origin)

    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("convolution", shape)
        packed = convolution.pack(shape, tile, self.machine, weights)
        function = convolution.generate(shape, tile, self.machine)
        return Kernel(function, (packed, bias), tile, shape, origin)

    def squeeze_excite(
        self, shape: SqueezeExcite, w1: Floats, b1: Floats, w2: Floats, b2: Floats
    ) -> Kernel:
        tile, origin = self._choose("squeeze_excite", shape)
        first, second = (squeeze_excite.pack(w, tile, self.machine, shape.dtype) for w in (w1, w2))
        function = squeeze_excite.generate(shape, tile, self.machine)
        return Kernel(function, (first, b1, second, b2), tile, shape, origin)

    def global_pool(self, shape: GlobalPool) -> Kernel:
        tile, origin = self._choose("global_pool", shape)
        return Kernel(pooling.generate(shape, tile, self.machine), (), tile, shape, origin)

    def integer_pointwise(
        self, shape: IntegerPointwise, weights: Integers, *rounding: Array
    ) -> Kernel:
        tile, origin = self._choose("integer_pointwise", shape)
        packed = integer_pointwise.pack(shape, tile, self.machine, weights)
        bias, scale = (integer_pointwise.pad(shape, row) for row in rounding[:2])
        function = integer_pointwise.generate(shape, tile, self.machine)
        return Kernel(function, (packed, bias, scale, *rounding[2:]), tile, shape, origin)

    def integer_depthwise(
        self, shape: IntegerDepthwise, weights: Integers, *rounding: Array
    ) -> Kernel:
        tile, origin = self._choose("integer_depthwise", shape)
        packed = integer_depthwise.pack(shape, self.machine, weights)
        function = integer_depthwise.generate(shape, tile, self.machine)
        return Kernel(function, (packed, *rounding), tile, shape, origin)

    def integer_convolution(
        self, shape: IntegerConvolution, weights: Integers, *rounding: Array
    ) -> Kernel:
        tile, origin = self._choose("integer_convolution", shape)
        packed = integer_convolution.pack(shape, weights)
        function = integer_convolution.generate(shape, tile, self.machine)
        return Kernel(function, (packed, *rounding), tile, shape, origin)

    def elementwise(self, shape: Elementwise) -> Kernel:
        return Kernel(elementwise.generate_elementwise(shape, self.machine))

    def transpose(self, shape: Transpose) -> Kernel:
        return Kernel(elementwise.generate_transpose(shape, self.machine))

    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
        return general.schedule(function, target)

    def _choose(self, kind: str, shape: Any) -> tuple[Any, str]:
        """Return the knobs for a shape, and where they come from."""
        return chosen(SCHEDULES[kind], self.choices, kind, shape, self.machine)


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


# The modules of `schedules` that have knobs, by the kind of their steps.
SCHEDULES: dict[str, Any] = {
    "pointwise": pointwise,
    "depthwise": depthwise,
    "convolution": convolution,
    "squeeze_excite": squeeze_excite,
    "global_pool": pooling,
    "integer_pointwise": integer_pointwise,
    "integer_depthwise": integer_depthwise,
    "integer_convolution": integer_convolution,
}
