"""What networks cost on CPUs, kernel by kernel."""

from collections.abc import Callable
from typing import Any, ClassVar

import onnx

from mbv3c.execution.device.place import Place
from mbv3c.lowering.plan import Kernel, Plan
from mbv3c.lowering.qdq import read_pairs
from mbv3c.precision import Precision
from mbv3c.targets.cpu.cores import processor_of
from mbv3c.targets.cpu.devices import CpuTarget
from mbv3c.targets.cpu.kernels import CpuKernels, select
from mbv3c.targets.cpu.select_integers import select_quantized
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.costs import CountingCoster, RunningCoster
from mbv3c.targets.library.device_costs import DeviceCoster
from mbv3c.targets.library.target import tvm_target
from mbv3c.targets.library.timed_costs import TimingCoster

_MOST_KERNELS = 4096  # that are kept in memory


class RememberedKernels(CpuKernels):
    """Writes every kernel once: what weights it gets does not matter where costs are asked for."""

    _known: ClassVar[dict[tuple[Any, ...], Kernel]] = {}

    def remembered(self, method: str, shape: Any, *constants: Any) -> Kernel:
        """Return a kernel that was written before, or write it."""
        key = (method, type(shape), shape, self.processor, id(self.choices))
        if key not in self._known:
            while len(self._known) >= _MOST_KERNELS:
                del self._known[next(iter(self._known))]
            self._known[key] = getattr(super(), method)(shape, *constants)
        return self._known[key]


def _remembering(method: str) -> Callable[..., Kernel]:
    def write(self: RememberedKernels, shape: Any, *constants: Any) -> Kernel:
        return self.remembered(method, shape, *constants)

    return write


for _method in (
    *("pointwise", "depthwise", "convolution", "squeeze_excite", "global_pool"),
    *("integer_pointwise", "integer_depthwise", "integer_convolution"),
    *("elementwise", "transpose"),
):
    setattr(RememberedKernels, _method, _remembering(_method))


class _CpuCoster(RunningCoster):
    """Chooses kernels for CPUs."""

    def plan(self, graph: onnx.ModelProto) -> Plan:
        target = self.resolved
        assert isinstance(target, CpuTarget)
        processor, code = processor_of(target), tvm_target(target)
        if self.precision.quantized:
            pairs = read_pairs(graph)
            return select_quantized(pairs, processor, code, self.choices, RememberedKernels)
        dtype = self.precision.dtype
        return select(
            graph, processor, code, dtype, choices=self.choices, written=RememberedKernels
        )


class CpuCounter(_CpuCoster, CountingCoster):
    """Counts instructions of kernels on an emulated CPU."""


class CpuTimer(_CpuCoster, TimingCoster):
    """Times kernels on this machine's CPU."""


class CpuOnDevice(_CpuCoster, DeviceCoster):
    """Times kernels on the CPU of a device."""


def cpu_coster(
    backend: LibraryBackend, target: CpuTarget, precision: Precision, place: Place | None
) -> RunningCoster:
    """Return what tells costs on a CPU: a device's clock, an emulator, or this machine's clock."""
    if place is not None:
        return CpuOnDevice(backend, target, precision, place=place)
    return (CpuCounter if target.emulated_as else CpuTimer)(backend, target, precision)
