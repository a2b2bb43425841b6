"""What networks cost on an Ethos-U: vela's estimates, asked for many networks at once.

Vela is asked for every network by itself: its cycles of a layer depend on the layers around it,
by some per cent. What makes a question cheap is that networks which differ in channel counts
share one lowering to TOSA, and that one process of vela's answers them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata

import onnx

from mbv3c.costs.database import CostContext, CostTable
from mbv3c.costs.questions import Question
from mbv3c.costs.shortcut import ByStructure
from mbv3c.costs.types import (
    MEMORY,
    MULTIPLY_ADDS,
    PARAMETERS,
    WEIGHTS,
    LayerCost,
    NetworkCost,
)
from mbv3c.precision import Precision
from mbv3c.prepare import rewritten_for
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import quantize_unmeasured
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.quantize import rewritten
from mbv3c.targets.ethos_u.compiling import lowering
from mbv3c.targets.ethos_u.devices import Knobs, NpuTarget
from mbv3c.targets.ethos_u.doctor import require_npu_tools
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.tosa_sizes import TosaFile, TosaLayer, read_tosa
from mbv3c.targets.ethos_u.vela import Cost
from mbv3c.targets.ethos_u.vela_many import estimate_many
from mbv3c.version import __version__

CYCLES = "cycles"
_TABLE = 256  # numbers of a table


@dataclass(frozen=True)
class _Network:
    """A network as vela reads it.

    Attributes:
        tosa: the bytes of the TOSA file.
        layers: what computes each tensor in it.
        nodes: the model's nodes that are computed under each name.
    """

    tosa: bytes
    layers: dict[str, TosaLayer]
    nodes: dict[str, tuple[str, ...]]


_Made = tuple[TosaFile, dict[str, tuple[str, ...]]]  # as vela reads it, and as `_Network.nodes`


@dataclass
class NpuCoster:
    """Finds out what networks cost on an Ethos-U, as compiled without options."""

    target: NpuTarget
    precision: Precision
    time: str = CYCLES

    @cached_property
    def context(self) -> CostContext:
        names = ("ethos-u-vela", "tosa-tools", "onnxruntime")
        versions = {name: _version(name) for name in names}
        system, mode = self.target.system_config, self.target.memory_mode
        own = {"mbv3c": __version__, "system": f"{system} {mode}"}
        return CostContext(self.target.name, self.precision.name, {**versions, **own})

    def check(self) -> None:
        require_npu_tools()

    def ask(
        self, questions: Sequence[Question], table: CostTable, progress: Progress
    ) -> list[NetworkCost]:
        networks = []
        for number, question in enumerate(questions, 1):
            progress(f"lowering network {number} of {len(questions)} for {self.target.name}")
            networks.append(self._networks.lowered(question, progress))
        return self._estimated(questions, networks, progress, whole=False)

    def ask_whole(
        self, models: Sequence[onnx.ModelProto], progress: Progress
    ) -> list[NetworkCost]:
        count = f"{len(models)} network{'s' * (len(models) > 1)}"
        progress(f"lowering {count} for {self.target.name}")
        networks = [self._lower(self._rewrite(model)) for model in models]
        return self._estimated(list(map(Question, models)), networks, progress, whole=True)

    def _estimated(
        self,
        questions: Sequence[Question],
        networks: Sequence[_Network],
        progress: Progress,
        *,
        whole: bool,
    ) -> list[NetworkCost]:
        progress(f"estimating {len(networks)} network{'s' * (len(networks) > 1)} by vela")
        costs = estimate_many([each.tosa for each in networks], self.target, Knobs())
        return [
            self._cost(*each, whole=whole) for each in zip(questions, networks, costs, strict=True)
        ]

    def _cost(
        self, question: Question, network: _Network, cost: Cost, *, whole: bool
    ) -> NetworkCost:
        resources = {
            CYCLES: float(cost.cycles),
            PARAMETERS: float(question.counts.params),
            MULTIPLY_ADDS: float(question.counts.madds),
            WEIGHTS: float(cost.flash_bytes),
            MEMORY: float(cost.sram_bytes),
        }
        layers = tuple(_layers(network, cost))
        name, precision = self.target.name, self.precision.name
        return NetworkCost(name, precision, "estimated", layers, resources, whole)

    @cached_property
    def _networks(self) -> ByStructure[_Made, _Network]:
        """What lowers networks."""
        return ByStructure(
            self._rewrite,
            self._lower,
            make=self._made,
            fit=lambda made, sizes: _Network(
                made[0].resized(sizes), made[0].layers(sizes), made[1]
            ),
            alike=lambda own, made, sizes: (
                read_tosa(own.tosa).shapes == made[0].resized_shapes(sizes)
            ),
            done="lowered",
            taken=(_TABLE,),
        )

    def _made(self, graph: onnx.ModelProto) -> _Made:
        network = self._lower(graph)
        return read_tosa(network.tosa), network.nodes

    def _rewrite(self, model: onnx.ModelProto) -> onnx.ModelProto:
        cleaned, _ = rewritten_for(model, self.precision)
        return rewritten(cleaned, QuantizeOptions())

    def _lower(self, graph: onnx.ModelProto) -> _Network:
        pairs = quantize_unmeasured(graph, None, may_keep_float=False)
        quantized, _ = rewritten_for(pairs, self.precision)
        parts = partition(device_graph(quantized), lowering(Knobs().mean, self.target))
        region = npu_part(parts)
        nodes = {each.name: each.nodes for each in region.operators}
        return _Network(region.tosa, read_tosa(region.tosa).layers({}), nodes)


def _layers(network: _Network, cost: Cost) -> list[LayerCost]:
    """Return vela's layers; what is fused is part of what it is fused into."""
    computed = network.layers
    cycles: dict[str, int] = {}
    operations: dict[str, str] = {}
    for layer in cost.layers:
        cycles[layer.name] = cycles.get(layer.name, 0) + layer.cycles
        operations.setdefault(layer.name, layer.operation)
    made = []
    for name, count in cycles.items():
        found = computed.get(name)
        names = found.names if found else (name,)
        parts = dict.fromkeys(each.partition("/")[0].partition("#")[0] for each in names[::-1])
        nodes = tuple(node for part in parts for node in network.nodes.get(part, ()))
        key = f"{operations[name]} {found.sizes if found else name}"
        made.append(LayerCost(key, nodes, 1, {CYCLES: float(count)}))
    return made


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
