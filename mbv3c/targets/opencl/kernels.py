"""Kernels for GPUs, by shape: what `select_gpu` asks for."""

from dataclasses import dataclass
from typing import Any

import tvm
from tvm.s_tir import dlight
from tvm.tirx import PrimFunc

from mbv3c.lowering.kernels import NO_CHOICES, Choices, Floats, Kernel, chosen
from mbv3c.lowering.shapes import (
    Convolution,
    Depthwise,
    Elementwise,
    GlobalPool,
    Pointwise,
    Transpose,
    pack_depthwise,
)
from mbv3c.targets.opencl.gpu import Gpu
from mbv3c.targets.opencl.schedules import convolution, depthwise, gates, pointwise, simple
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap
from mbv3c.targets.opencl.schedules.gates import Gates
from mbv3c.targets.opencl.schedules.pointwise import Product

# Counts up when a kernel's code changes though shape and knobs do not, as
# `mbv3c.targets.cpu.kernels.VERSION` does for CPUs.
VERSION = 1


@dataclass(frozen=True)
class GpuKernels:
    """Kernels for a GPU.

    Attributes:
        gpu: the GPU that runs the kernels.
        choices: the knobs that were measured to be best on that GPU.
    """

    gpu: Gpu
    choices: Choices = NO_CHOICES

    def product(self, product: Product, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("pointwise", product)
        constants = (pointwise.pack(weights), bias)
        return Kernel(pointwise.generate(product, tile), constants, tile, product, origin)

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel:
        return self.product(Product(shape), weights, bias)

    def depthwise_map(self, shape: DepthwiseMap, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("depthwise", shape)
        constants = (pack_depthwise(weights), bias)
        return Kernel(depthwise.generate(shape, tile), constants, tile, shape, origin)

    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel:
        return self.depthwise_map(DepthwiseMap(shape), weights, bias)

    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("convolution", shape)
        constants = (convolution.pack(weights), bias)
        return Kernel(convolution.generate(shape, tile), constants, tile, shape, origin)

    def gates(self, shape: Gates, w1: Floats, b1: Floats, w2: Floats, b2: Floats) -> Kernel:
        tile, origin = self._choose("gates", shape)
        constants = (gates.pack(w1), b1, gates.pack(w2), b2)
        function = gates.generate(shape, tile, self.gpu.language)
        return Kernel(function, constants, tile, shape, origin)

    def global_pool(self, shape: GlobalPool) -> Kernel:
        return Kernel(simple.generate_pool(shape, self.gpu))

    def elementwise(self, shape: Elementwise) -> Kernel:
        return Kernel(simple.generate_elementwise(shape, self.gpu))

    def scale(self, shape: Elementwise, gates: str) -> Kernel:
        """Write the product of a map and gates; `gates` is the gates' element type."""
        return Kernel(simple.generate_elementwise(shape, self.gpu, gates))

    def transpose(self, shape: Transpose) -> Kernel:
        return Kernel(simple.generate_transpose(shape, self.gpu))

    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
        """Bind the outputs of TVM's own operators to work-items, by dlight's general rule.

        Its rules for reductions stage values in local memory, which Mali does not have. With
        apache-tvm 0.27 they also make a Small for Adreno that computes something else.
        """
        with target:
            apply = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())
            return apply(tvm.IRModule({"main": function}))["main"]

    def _choose(self, kind: str, shape: Any) -> tuple[Any, str]:
        """Return the knobs for a shape, and where they come from."""
        return chosen(SCHEDULES[kind], self.choices, kind, shape, self.gpu)


# The modules of `schedules` that have knobs, by the kind of their steps.
SCHEDULES: dict[str, Any] = {
    "pointwise": pointwise,
    "depthwise": depthwise,
    "convolution": convolution,
    "gates": gates,
}
