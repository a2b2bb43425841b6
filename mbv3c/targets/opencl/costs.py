"""What networks cost on mobile GPUs, by the cost model or, on a device, by the GPU's clock.

For the cost model nothing is built, and nothing runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx

from mbv3c.costs.asking import Coster
from mbv3c.costs.questions import Question
from mbv3c.costs.types import Kind, LayerCost, NetworkCost
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.lowering.plan import Plan, Step
from mbv3c.passes.spell_topk import spell_ranks
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.costs import LibraryCoster, keys_of
from mbv3c.targets.library.device_costs import DeviceCoster
from mbv3c.targets.library.target import LibraryTarget
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.kernels import SCHEDULES, select_gpu

CYCLES = "cycles"


@dataclass
class _GpuCoster(LibraryCoster):
    """Chooses kernels for GPUs.

    Attributes:
        gpu: what kernels must know of the GPU.
        code: the GPU in TVM's terms.
    """

    gpu: Gpu = field(kw_only=True)
    code: Any = field(kw_only=True)

    def plan(self, graph: onnx.ModelProto) -> Plan:
        spelled, _ = spell_ranks(graph)
        dtype = self.precision.dtype
        return select_gpu(spelled, self.gpu, self.code, dtype, choices=self.choices)


@dataclass
class GpuOnDevice(_GpuCoster, DeviceCoster):
    """Times kernels on the GPU of a device."""


@dataclass
class GpuCoster(_GpuCoster):
    """Estimates the clocks of every launch, by a roofline that was compared with no GPU.

    A kernel without choices only moves numbers: its launch, and its bytes at memory's rate.
    """

    kind: Kind = field(default="estimated", init=False)
    time: str = field(default=CYCLES, init=False)

    def measure(self, steps: Mapping[str, Step]) -> dict[str, dict[str, float]]:
        return {key: {CYCLES: self._clocks(step)} for key, step in steps.items()}

    def ask_whole(
        self, models: Sequence[onnx.ModelProto], progress: Progress
    ) -> list[NetworkCost]:
        """Add up what the model says of each launch; there is nothing else to ask."""
        made = []
        for model in models:
            graph = self._rewrite(model)
            plan = self.plan(graph)
            layers = [
                LayerCost(key, step.nodes, 1, {CYCLES: self._clocks(step)})
                for key, step in zip(keys_of(plan, graph), plan.steps, strict=True)
            ]
            made.append(self.network(Question(model), plan, layers, whole=True))
        return made

    def _clocks(self, step: Step) -> float:
        schedule = SCHEDULES.get(step.kind)
        if schedule is None or step.shape is None:
            sizes = (
                (prod(int(extent) for extent in each.shape), str(each.dtype))
                for each in step.function.params
            )
            return self.gpu.launch + sum(_bytes(*size) for size in sizes) / self.gpu.memory
        tiles = schedule.legal(step.shape, self.gpu)
        chosen = (tile for tile in tiles if vars(tile) == step.knobs)
        tile = next(chosen, None) or schedule.default(step.shape, self.gpu)
        clocks: float = schedule.work(step.shape, tile, self.gpu).clocks(self.gpu)
        return clocks


def gpu_coster(
    backend: LibraryBackend,
    target: LibraryTarget,
    precision: Precision,
    place: Place | None,
    gpu: tuple[Gpu, Any],
) -> Coster:
    """Return what tells costs on a GPU; `gpu` is it for kernels and in TVM's terms.

    It is the cost model without a place, and the clock of the device there with one.

    Raises:
        UsageError: no device runs the GPU's kernels.
    """
    if place is None:
        return GpuCoster(backend, target, precision, gpu=gpu[0], code=gpu[1])
    if (language := gpu[0].language) != "opencl":
        raise UsageError(
            f"the kernels of {target.name} are written in {language}, which no served device "
            "runs; the cost model estimates its cycles: leave --device and --tracker out"
        )
    return GpuOnDevice(backend, target, precision, gpu=gpu[0], code=gpu[1], place=place)


def _bytes(count: int, dtype: str) -> int:
    widths = {"float32": 4, "float16": 2, "int32": 4, "int64": 8}
    return count * widths.get(dtype, 1)
