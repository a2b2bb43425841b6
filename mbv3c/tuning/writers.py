"""Kernels that have knobs, by kind, for whatever processor they are."""

from collections.abc import Sequence
from typing import Any

from mbv3c.lowering import gpu_kernels, kernels
from mbv3c.lowering.gpu import Gpu
from mbv3c.lowering.gpu_kernels import GpuKernels
from mbv3c.lowering.kernels import NO_CHOICES, Choices, CpuKernels, Kernel
from mbv3c.lowering.machine import Machine
from mbv3c.lowering.plan import Array

# The methods of `GpuKernels` that take the shapes of steps, where they are not called as the kind.
_OF_GPUS = {"pointwise": "product", "depthwise": "depthwise_map"}


def schedules(processor: Machine | Gpu) -> dict[str, Any]:
    """Return the modules with `legal` and `default` of a processor, by the kind of kernel."""
    return gpu_kernels.SCHEDULES if isinstance(processor, Gpu) else kernels.SCHEDULES


def writer(processor: Machine | Gpu, choices: Choices = NO_CHOICES) -> CpuKernels | GpuKernels:
    """Return what writes kernels for a processor."""
    if isinstance(processor, Gpu):
        return GpuKernels(processor, choices)
    return CpuKernels(processor, choices)


def write(
    processor: Machine | Gpu, choices: Choices, kind: str, shape: Any, weights: Sequence[Array]
) -> Kernel:
    """Write a kernel of a kind; weights are as in ONNX."""
    method = _OF_GPUS.get(kind, kind) if isinstance(processor, Gpu) else kind
    kernel: Kernel = getattr(writer(processor, choices), method)(shape, *weights)
    return kernel
