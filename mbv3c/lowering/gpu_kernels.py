"""Kernels for GPUs, by shape: what `select_gpu` asks for."""

from dataclasses import dataclass

import tvm
from tvm.s_tir import dlight
from tvm.tirx import PrimFunc

from mbv3c.lowering.gpu import Gpu
from mbv3c.lowering.kernels import Floats, Kernel
from mbv3c.lowering.schedules.convolution import Convolution
from mbv3c.lowering.schedules.depthwise import Depthwise
from mbv3c.lowering.schedules.elementwise import Elementwise, Transpose
from mbv3c.lowering.schedules.gpu import convolution, depthwise, gates, pointwise, simple
from mbv3c.lowering.schedules.gpu.depthwise import DepthwiseMap
from mbv3c.lowering.schedules.gpu.gates import Gates
from mbv3c.lowering.schedules.gpu.pointwise import Product
from mbv3c.lowering.schedules.pointwise import Pointwise
from mbv3c.lowering.schedules.pooling import GlobalPool


@dataclass(frozen=True)
class GpuKernels:
    """Kernels for a GPU."""

    gpu: Gpu

    def product(self, product: Product, weights: Floats, bias: Floats) -> Kernel:
        tile = pointwise.default(product, self.gpu)
        packed = pointwise.pack(weights)
        return Kernel(pointwise.generate(product, tile), (packed, bias), tile)

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel:
        return self.product(Product(shape), weights, bias)

    def depthwise_map(self, one: DepthwiseMap, weights: Floats, bias: Floats) -> Kernel:
        tile = depthwise.default(one, self.gpu)
        return Kernel(depthwise.generate(one, tile), (depthwise.pack(weights), bias), tile)

    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel:
        return self.depthwise_map(DepthwiseMap(shape), weights, bias)

    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel:
        tile = convolution.default(shape, self.gpu)
        packed = convolution.pack(weights)
        return Kernel(convolution.generate(shape, tile), (packed, bias), tile)

    def gates(self, shape: Gates, w1: Floats, b1: Floats, w2: Floats, b2: Floats) -> Kernel:
        tile = gates.default(shape, self.gpu)
        constants = (gates.pack(w1), b1, gates.pack(w2), b2)
        return Kernel(gates.generate(shape, tile, self.gpu.language), constants, tile)

    def global_pool(self, shape: GlobalPool) -> Kernel:
        return Kernel(simple.generate_pool(shape, self.gpu))

    def elementwise(self, shape: Elementwise) -> Kernel:
        return Kernel(simple.generate_elementwise(shape, self.gpu))

    def scale(self, shape: Elementwise, gates: str) -> Kernel:
        """Write the product of a map and gates of the element type `gates`."""
        return Kernel(simple.generate_elementwise(shape, self.gpu, gates))

    def transpose(self, shape: Transpose) -> Kernel:
        return Kernel(simple.generate_transpose(shape, self.gpu))

    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
        """Bind the outputs of TVM's own operators to work-items, by dlight's general rule.

        Its rules for reductions stage values in local memory, which Mali does not have; with
        apache-tvm 0.27 Small made by them for Adreno computes something else.
        """
        with target:
            apply = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())
            return apply(tvm.IRModule({"main": function}))["main"]
