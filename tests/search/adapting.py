"""An adaptation of a tiny network with stubs of accuracy and costs; the cuts are real."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx

from mbv3c.graphs.architecture import Architecture, Block
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import tensor_shapes
from mbv3c.graphs.spec import ModelSpec
from mbv3c.search.adapt import adapt
from mbv3c.search.adapted import Adapted, AdaptPlan, Means, Tuned
from mbv3c.search.budget import parse_budgets
from mbv3c.search.journal import open_journal
from mbv3c.search.statistics import Right

IMAGES = 400
TINY = Architecture(
    stem=8,
    blocks=(
        Block(3, 24, 16, 8, "hardswish", 2),
        Block(3, 32, 16, 0, "relu", 1),
        Block(3, 48, 24, 16, "hardswish", 2),
    ),
    last_conv=64,
    hidden=48,
)


@functools.cache
def tiny() -> onnx.ModelProto:
    """Build the network for 32 pixels and five classes; do not change it."""
    return build_model(ModelSpec(resolution=32, classes=5, layers=TINY))


@functools.cache
def digits_network() -> onnx.ModelProto:
    """Build the network for ten classes; do not change it."""
    return build_model(ModelSpec(resolution=32, classes=10, layers=TINY))


@functools.cache
def _pixels() -> dict[str, int]:
    """Return the pixels of each layer's output, by its name."""
    shapes = tensor_shapes(tiny())
    return {node.name: prod(shapes[node.output[0]][2:]) for node in tiny().graph.node}


def _cost(model: onnx.ModelProto, factor: float = 1.0) -> dict[str, float]:
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    pixels = _pixels()
    layers = [
        (stored[node.input[1]], pixels[node.name])
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    ]
    cycles = sum(prod(dims) * (8 + size) for dims, size in layers)
    return {
        "cycles": factor * cycles,
        "weights": sum(prod(dims) for dims, _ in layers),
        "memory": max(dims[0] * size for dims, size in layers),
    }


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@dataclass
class Stubs:
    """Costs are counts, and accuracy falls with weights, with noise by the network's bytes.

    Attributes:
        kill_at: index of the call at which to be killed.
        names: what was called.
        gain: what a short training adds to the accuracy.
    """

    kill_at: int | None = None
    names: list[str] = field(default_factory=list)
    gain: float = 0.0
    said: list[str] = field(default_factory=list)

    def means(self, *, finish: bool = True) -> Means:
        return Means(
            self.costs,
            lambda model: self.right(model, 0.0),
            self.tune,
            self.finish if finish else None,
            self.said.append,
        )

    def costs(self, models: Sequence[onnx.ModelProto], whole: bool) -> list[Mapping[str, float]]:
        """Return cycles, which are 1 % fewer for a whole network, and memory of one layer."""
        self._called("costs")
        return [_cost(model, 0.99 if whole else 1.0) for model in models]

    def tune(self, models: Sequence[tuple[str, onnx.ModelProto]]) -> list[Tuned]:
        self._called("tune")
        return [Tuned(model, self.right(model, self.gain)) for _, model in models]

    def finish(self, model: onnx.ModelProto) -> Tuned:
        self._called("finish")
        return Tuned(model, self.right(model, self.gain + 0.05))

    def right(self, model: onnx.ModelProto, gain: float) -> Right:
        digest = hashlib.sha256(model.SerializeToString(deterministic=True)).digest()
        noise = np.random.default_rng(np.frombuffer(digest, np.uint64)).normal(0, 0.05, IMAGES)
        easy = np.linspace(0, 1, IMAGES)  # on each image less so; common to all networks
        share = 0.8 * _cost(model)["weights"] / _cost(tiny())["weights"]
        right: Right = easy + noise < 0.1 + share + gain
        return right

    def _called(self, name: str) -> None:
        if len(self.names) == self.kill_at:
            raise Killed
        self.names.append(name)


def adapted(
    folder: Path, *budgets: str, stubs: Stubs | None = None, finish: bool = True, **plan: object
) -> Adapted:
    """Adapt the network, with the journal in a folder."""
    given = AdaptPlan(parse_budgets(budgets), **plan)  # type: ignore[arg-type]
    with open_journal(folder / "journal.jsonl", given.to_json()) as journal:
        return adapt(tiny(), given, (stubs or Stubs()).means(finish=finish), journal)
