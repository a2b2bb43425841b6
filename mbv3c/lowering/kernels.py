"""Kernels by shape, for one kind of processor: what `select` asks for."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.machine import Machine
from mbv3c.lowering.plan import Array
from mbv3c.lowering.schedules import (
    convolution,
    depthwise,
    elementwise,
    general,
    pointwise,
    pooling,
    squeeze_excite,
)
from mbv3c.lowering.schedules.convolution import Convolution
from mbv3c.lowering.schedules.depthwise import Depthwise
from mbv3c.lowering.schedules.elementwise import Elementwise, Transpose
from mbv3c.lowering.schedules.pointwise import Pointwise
from mbv3c.lowering.schedules.pooling import GlobalPool
from mbv3c.lowering.schedules.squeeze_excite import SqueezeExcite

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """A kernel with the choices that were made for it.

    Attributes:
        function: the kernel.
        constants: its weights, packed as it reads them: its arguments after the first input.
        knobs: the choices, a dataclass; None if there are none.
    """

    function: PrimFunc
    constants: tuple[Array, ...] = ()
    knobs: Any = None


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


@dataclass(frozen=True)
class CpuKernels:
    """Kernels for the cores of a CPU."""

    machine: Machine

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel:
        tile = pointwise.default(shape, self.machine)
        packed = pointwise.pack(shape, tile, self.machine, weights)
        return Kernel(pointwise.generate(shape, tile, self.machine), (packed, bias), tile)

    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel:
        tile = depthwise.default(shape, self.machine)
        packed = depthwise.pack(weights)
        return Kernel(depthwise.generate(shape, tile, self.machine), (packed, bias), tile)

    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel:
        tile = convolution.default(shape, self.machine)
        packed = convolution.pack(shape, tile, self.machine, weights)
        return Kernel(convolution.generate(shape, tile, self.machine), (packed, bias), tile)

    def squeeze_excite(
        self, shape: SqueezeExcite, w1: Floats, b1: Floats, w2: Floats, b2: Floats
    ) -> Kernel:
        tile = squeeze_excite.default(shape, self.machine)
        packed = (squeeze_excite.pack(w, tile, self.machine, shape.dtype) for w in (w1, w2))
        first, second = packed
        function = squeeze_excite.generate(shape, tile, self.machine)
        return Kernel(function, (first, b1, second, b2), tile)

    def global_pool(self, shape: GlobalPool) -> Kernel:
        tile = pooling.default(shape, self.machine)
        return Kernel(pooling.generate(shape, tile, self.machine), (), tile)

    def elementwise(self, shape: Elementwise) -> Kernel:
        return Kernel(elementwise.generate_elementwise(shape, self.machine))

    def transpose(self, shape: Transpose) -> Kernel:
        return Kernel(elementwise.generate_transpose(shape, self.machine))

    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
        return general.schedule(function, target)
