"""Kernels for Cortex-M, and which of them computes each node of a quantized graph."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3c.lowering.plan import Array, Kernel
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.mcu.devices import McuTarget
from mbv3c.targets.mcu.schedules import dense, depthwise, words

Integers = NDArray[np.int8]
_KIB = 1024


def processor_of(target: McuTarget) -> Processor:
    """Describe a core as the kernels see it."""
    return Processor(
        vector_bytes=16 if target.helium else 4,
        registers=8 if target.helium else 13,
        lane_operands=False,
        partial_cost=1.0,
        l1_bytes=16 * _KIB,
        l2_bytes=16 * _KIB,
        fma_chains=1,
        cores=1,
        integers="helium" if target.helium else "smlad",
    )


@dataclass(frozen=True)
class McuKernels(CpuKernels):
    """The kernels of a CPU, of which those with sums of products are written for Cortex-M."""

    def integer_pointwise(
        self, shape: IntegerPointwise, weights: Integers, *rounding: Array
    ) -> Kernel:
        columns = dense.columns_of(shape.rows, self.processor)
        packed = words.pack(weights, columns, self.processor)
        function = dense.generate_pointwise(shape, self.processor)
        return Kernel(function, (packed, *_padded(rounding, columns)))

    def integer_convolution(
        self, shape: IntegerConvolution, weights: Integers, *rounding: Array
    ) -> Kernel:
        columns = dense.columns_of(min(2, shape.horizontal.outputs), self.processor)
        matrix = dense.pack_convolution(shape, weights)
        packed = words.pack(matrix, columns, self.processor)
        function = dense.generate_convolution(shape, self.processor)
        return Kernel(function, (packed, *_padded(rounding, columns)))

    def integer_depthwise(
        self, shape: IntegerDepthwise, weights: Integers, *rounding: Array
    ) -> Kernel:
        packed = depthwise.pack(shape, self.processor, weights)
        function = depthwise.generate(shape, self.processor)
        return Kernel(function, (packed, *rounding))


def _padded(rounding: tuple[Array, ...], columns: int) -> tuple[Array, ...]:
    """Fill biases and factors up to whole panels; a table stays as it is."""
    return (*(dense.padded(row, columns) for row in rounding[:2]), *rounding[2:])
