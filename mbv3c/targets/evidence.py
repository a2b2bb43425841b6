"""What a bundle itself holds that reports show, whichever backend made it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mbv3c.lowering.describe import KernelRecord, MemoryRecord
from mbv3c.parity.verdict import sentence


@dataclass(frozen=True)
class LayerEstimate:
    """What a layer takes, by a model of the device.

    Attributes:
        name: name of the layer.
        operation: what computes it.
        cycles: estimated cycles.
        madds: multiply-adds.
    """

    name: str
    operation: str
    cycles: float
    madds: int


def _sentences(parity: dict[str, Any]) -> Iterable[str]:
    return [sentence(parity)]


@dataclass(frozen=True)
class Evidence:
    """What a bundle holds beside its verdict.

    Attributes:
        kernels: every call of a kernel, in order; empty where there are no kernels of ours.
        memory: where activations lie; None where something else plans that.
        layers: estimates of the layers; empty where the manifest has none.
        cycles: estimated cycles of an inference; 0 where there are no layers.
        estimator: what estimated them.
        sentences: function that says a verdict in its documented JSON form in words.
    """

    kernels: Sequence[KernelRecord] = ()
    memory: MemoryRecord | None = None
    layers: Sequence[LayerEstimate] = ()
    cycles: float = 0.0
    estimator: str = ""
    sentences: Callable[[dict[str, Any]], Iterable[str]] = _sentences
