"""What networks cost as libraries, kernel by kernel: executed instructions on an emulated core.

A kernel of one key executes equal numbers of instructions in every network, so a network costs the
sum of its kernels, and what TVM's runtime executes around them. What no table knows yet is built
many in one library, and counted in one run of the emulator.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from tvm_ffi import structural_hash

from mbv3c import bundle as bundles
from mbv3c.costs.database import CostContext, CostTable
from mbv3c.costs.questions import Question
from mbv3c.costs.shortcut import ByStructure
from mbv3c.costs.types import (
    MEMORY,
    MULTIPLY_ADDS,
    OUTSIDE,
    PARAMETERS,
    WEIGHTS,
    Kind,
    LayerCost,
    NetworkCost,
    added,
)
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import Count, count_kernels
from mbv3c.feeds import as_feed, save_feed
from mbv3c.graphs.channel_groups import fitted
from mbv3c.job import Job
from mbv3c.lowering.arena import plan_arena
from mbv3c.lowering.lower import Lowered, assembled
from mbv3c.lowering.plan import Choices, Elementwise, Plan, Step
from mbv3c.lowering.schedules.emit import LINEAR
from mbv3c.precision import Precision
from mbv3c.prepare import rewritten_for
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import quantize_unmeasured
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.quantize import rewritten
from mbv3c.scratch import scratch_folder
from mbv3c.targets.library.around import Around, around
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.target import LibraryTarget, resolve
from mbv3c.tuning.choices import shipped
from mbv3c.tuning.database import key_of
from mbv3c.tuning.meters import INSTRUCTIONS, CountingMeter
from mbv3c.tuning.side_by_side import write_steps
from mbv3c.version import __version__

AROUND = "around kernels"  # the key of what is executed around kernels
_COPY = Elementwise(1, 1, 1, "", False, LINEAR)
_SETTLED = 6  # inferences after which what is around kernels is nearly equal in each
_SPREAD = 1e-3


@dataclass
class LibraryCoster(ABC):
    """Finds out what networks cost as libraries, with the kernels that are shipped as tuned."""

    backend: LibraryBackend
    target: LibraryTarget
    precision: Precision

    kind: Kind = field(default="emulated", init=False)
    time: str = field(default=INSTRUCTIONS, init=False)
    at_once: int = field(default=64, init=False)  # kernels in a library

    @cached_property
    def context(self) -> CostContext:
        versions = {name: metadata.version(name) for name in ("apache-tvm", "onnxruntime")}
        own = {"mbv3c": __version__, "kernels": str(self.backend.kernels_version)}
        return CostContext(
            self.target.name, self.precision.name, {**versions, **own, "cost": self.time}
        )

    @cached_property
    def resolved(self) -> LibraryTarget:
        """The target, with this machine's names in the place of `native`."""
        return resolve(self.target)

    @cached_property
    def choices(self) -> Choices:
        """The knobs that `compile` takes where nobody has tuned."""
        return self.backend.choices(self.target, (shipped(),), lambda text: None)

    @abstractmethod
    def plan(self, graph: onnx.ModelProto) -> Plan:
        """Choose the kernels of a rewritten graph.

        Raises:
            ModelError: a node has no known shape, or TVM cannot lower it.
        """

    @abstractmethod
    def measure(self, steps: Mapping[str, Step]) -> dict[str, dict[str, float]]:
        """Return what a call of each kernel costs.

        Raises:
            ToolError: it cannot be built, or counted.
        """

    def around(self, plan: Plan, table: CostTable) -> dict[str, float]:
        """Return what is executed outside of kernels; nothing by default."""
        return {}

    def check(self) -> None:
        """Take what is here; backends whose tools may be missing look for them."""

    def ask(
        self, questions: Sequence[Question], table: CostTable, progress: Progress
    ) -> list[NetworkCost]:
        keyed: list[tuple[Plan, list[str]]] = []
        missing: dict[str, Step] = {}
        for number, question in enumerate(questions, 1):
            progress(f"choosing kernels of network {number} of {len(questions)}")
            graph = self.networks.lowered(question, progress)
            plan = self.plan(graph)
            keys = list(keys_of(plan, graph))
            keyed.append((plan, keys))
            for key, step in zip(keys, plan.steps, strict=True):
                if key not in table.kernels:
                    missing.setdefault(key, step)
        left = list(missing.items())
        for start in range(0, len(left), self.at_once):
            part = dict(left[start : start + self.at_once])
            progress(f"measuring {start + len(part)} of {len(left)} kernels that no table has")
            table.add(kernels=self.measure(part))
        return [
            self._cost(question, plan, keys, table)
            for question, (plan, keys) in zip(questions, keyed, strict=True)
        ]

    def _cost(
        self, question: Question, plan: Plan, keys: Sequence[str], table: CostTable
    ) -> NetworkCost:
        layers = [
            LayerCost(key, step.nodes, 1, table.kernels[key])
            for key, step in zip(keys, plan.steps, strict=True)
        ]
        if around := self.around(plan, table):
            layers.append(LayerCost(OUTSIDE, (), 1, around))
        return self.network(question, plan, layers, whole=False)

    def network(
        self, question: Question, plan: Plan, layers: Sequence[LayerCost], *, whole: bool
    ) -> NetworkCost:
        """Return the cost of a network from those of its layers."""
        resources = {
            **added(layers),
            PARAMETERS: float(question.counts.params),
            MULTIPLY_ADDS: float(question.counts.madds),
            WEIGHTS: float(sum(step.constant_bytes for step in plan.steps)),
            MEMORY: float(plan_arena(plan).bytes),
        }
        name, precision = self.target.name, self.precision.name
        return NetworkCost(name, precision, self.kind, tuple(layers), resources, whole)

    @cached_property
    def networks(self) -> ByStructure[onnx.ModelProto, onnx.ModelProto]:
        """What rewrites networks to the graphs that are lowered."""
        return ByStructure(
            self._rewrite,
            self.quantized,
            make=self.quantized,
            fit=fitted,
            alike=lambda own, made, sizes: _form(own) == _form(fitted(made, sizes)),
            done="rewritten",
        )

    def _rewrite(self, model: onnx.ModelProto) -> onnx.ModelProto:
        graph, _ = rewritten_for(model, self.precision)
        return rewritten(graph, QuantizeOptions()) if self.precision.quantized else graph

    def quantized(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """Quantize a rewritten graph, if the precision asks for it."""
        if not self.precision.quantized:
            return graph
        computed = self.backend.on_device(self.job)
        pairs = quantize_unmeasured(graph, computed, may_keep_float=self.target.computes_fp32)
        return rewritten_for(pairs, self.precision)[0]

    @property
    def job(self) -> Job:
        """What `compile` would be asked for."""
        return Job(self.resolved, self.precision, choices=self.choices)


@dataclass
class RunningCoster(LibraryCoster):
    """Builds libraries and has them run."""

    digits: int = field(default=0, init=False)  # behind the point, of what is around kernels

    @abstractmethod
    def of_kernels(self, folder: Path, calls: Sequence[str]) -> list[float]:
        """Return what each call of a library costs.

        Args:
            folder: a folder with the library and an input, laid out as a bundle.
            calls: the name of the kernel of every call that is asked for, in order.
        """

    @abstractmethod
    def of_network(self, folder: Path, calls: Sequence[str]) -> tuple[list[float], float]:
        """Return what each call of a network's kernels costs, and all that is no kernel."""

    def measure(self, steps: Mapping[str, Step]) -> dict[str, dict[str, float]]:
        kernels = self.backend.kernels(self.target)
        with scratch_folder("costs") as place:
            folder = place / "kernels"
            names = write_steps(list(steps.values()), kernels, folder)
            costs = self.of_kernels(folder, names)
        return {key: {self.time: cost} for key, cost in zip(steps, costs, strict=True)}

    def around(self, plan: Plan, table: CostTable) -> dict[str, float]:
        if AROUND not in table.kernels:
            copy = self.backend.kernels(self.target).elementwise(_COPY)
            found = around(copy, self.outside)
            table.add(kernels={AROUND: asdict(found)})
        return {self.time: round(Around(**table.kernels[AROUND]).of(plan), self.digits)}

    def ask_whole(
        self, models: Sequence[onnx.ModelProto], progress: Progress
    ) -> list[NetworkCost]:
        made = []
        for number, model in enumerate(models, 1):
            progress(f"building and measuring network {number} of {len(models)}")
            graph = self.quantized(self._rewrite(model))
            lowered = assembled(self.plan(graph))
            made.append(self._measured(Question(model), graph, lowered))
        return made

    def _measured(
        self, question: Question, graph: onnx.ModelProto, lowered: Lowered
    ) -> NetworkCost:
        plan = lowered.plan
        inside, outside = self._costs(lowered)
        steps = zip(keys_of(plan, graph), plan.steps, inside, strict=True)
        layers = [LayerCost(key, step.nodes, 1, {self.time: cost}) for key, step, cost in steps]
        layers.append(LayerCost(OUTSIDE, (), 1, {self.time: outside}))
        return self.network(question, plan, layers, whole=True)

    def outside(self, plans: Sequence[Plan]) -> list[float]:
        """Return what is executed around the kernels of each of some plans."""
        return [self._costs(assembled(plan))[1] for plan in plans]

    def _costs(self, lowered: Lowered) -> tuple[list[float], float]:
        with scratch_folder("costs") as place:
            self.write(lowered, place / "network")
            return self.of_network(place / "network", lowered.kernels)

    def write(self, lowered: Lowered, folder: Path) -> None:
        """Build a network into a folder that is laid out as a bundle."""
        plan, golden = lowered.plan, folder / bundles.GOLDEN_INPUT
        golden.parent.mkdir(parents=True)
        inputs = zip(plan.inputs, plan.input_shapes, strict=True)
        zeros = [np.zeros(shape, plan.values[name].dtype) for name, shape in inputs]
        save_feed(golden, as_feed(zeros))
        self.backend.kernels(self.target).build(lowered.module, folder / bundles.LIBRARY)


@dataclass
class CountingCoster(RunningCoster):
    """Counts executed instructions on an emulated core."""

    @cached_property
    def meter(self) -> CountingMeter:
        """The emulator."""
        meter = self.backend.meter(self.target, "emulated")
        assert isinstance(meter, CountingMeter)
        return meter

    def check(self) -> None:
        assert self.meter is not None

    def of_kernels(self, folder: Path, calls: Sequence[str]) -> list[float]:
        counted = count_kernels(self.meter.kit, self.meter.cpu, folder, folder / "y.npy")
        return self._by_call(counted, folder, calls)[0]

    def of_network(self, folder: Path, calls: Sequence[str]) -> tuple[list[float], float]:
        meter, output = self.meter, folder / "y.npy"
        counted = count_kernels(meter.kit, meter.cpu, folder, output, times=_SETTLED)
        before, last = counted.regions[-2:]
        if abs(last - before) > _SPREAD * last:
            raise ToolError(
                f"two inferences executed {before:,} and {last:,} instructions, which should "
                "be nearly equal: please report this"
            )
        each, inside = self._by_call(counted, folder, calls)
        return each, float(counted.instructions - inside)

    def _by_call(
        self, counted: Count, folder: Path, calls: Sequence[str]
    ) -> tuple[list[float], int]:
        """Return the instructions of each call, and of all kernels that are called."""
        counts, times = self.meter.costs(counted, folder, INSTRUCTIONS), Counter(calls)
        return [counts[name] / times[name] for name in calls], sum(counts[name] for name in times)


def keys_of(plan: Plan, graph: onnx.ModelProto) -> Iterator[str]:
    """Yield what decides the cost of each step of a plan.

    It is the shape for which a kernel was written, and its knobs. A kernel without knobs is known
    by the operators that it computes and by what it reads and writes; one of TVM's by its code.
    """
    operators = {node.name or f"→ {node.output[0]}": node.op_type for node in graph.graph.node}
    for step in plan.steps:
        if step.shape is not None:
            knobs = json.dumps(step.knobs, sort_keys=True, default=str)
            yield f"{key_of(step.kind, step.shape)} {knobs}"
            continue
        parameters = [
            f"{parameter.dtype}[{'x'.join(str(int(extent)) for extent in parameter.shape)}]"
            for parameter in step.function.params
        ]
        computed = [operators.get(node, node) for node in step.nodes]
        code = f" {structural_hash(step.function):x}" if step.operator else ""
        yield f"{step.kind} {'+'.join(computed)} {' '.join(parameters)}{code}"


def _form(graph: onnx.ModelProto) -> list[object]:
    """Return what two graphs that are lowered to equal kernels have in common."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    return [
        (node.op_type, [(name, shapes.get(name)) for name in node.input], list(node.output))
        for node in graph.graph.node
    ]
