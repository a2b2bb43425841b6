"""What a network costs on a target, as data."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

# How costs were found: by a model of the device, by counting on an emulated one, or by a clock.
Kind = Literal["estimated", "emulated", "measured"]

# Resources that every target has. What stands for time is the target's own, as `time_resource`
# of `mbv3c.targets.costs` says.
PARAMETERS, MULTIPLY_ADDS, WEIGHTS, MEMORY = "parameters", "multiply_adds", "weights", "memory"
COMMON = (PARAMETERS, MULTIPLY_ADDS, WEIGHTS, MEMORY)

# What is not in a layer: TVM's runtime, which calls the kernels.
OUTSIDE = "outside of kernels"


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs.

    Attributes:
        key: all that decides the cost: for a library the kernel's key, with both channel counts,
            for an NPU vela's operation and the shapes around it.
        nodes: names of the model's nodes that the layer computes; of a node without a name
            "→ OUTPUT".
        calls: how often one inference computes it.
        resources: the costs of all these calls.
    """

    key: str
    nodes: tuple[str, ...]
    calls: int
    resources: Mapping[str, float]


@dataclass(frozen=True)
class NetworkCost:
    """What one inference of a network costs.

    Attributes:
        target: FAMILY:DEVICE.
        precision: name of the precision.
        kind: how it was found.
        layers: the layers in the order of the network. Their time adds up to the network's.
        resources: costs of the whole: the target's own time ("cycles" of NPUs and GPUs,
            "instructions" of an emulated CPU, "us" of a measured one), and always "parameters",
            "multiply_adds", "weights" (bytes of constants on the target) and "memory" (bytes of
            activations: the arena, or the NPU's SRAM).
        whole: whether the tools were asked for the whole network with its own weights; else it
            was added up from layers, or asked for with drawn weights.
    """

    target: str
    precision: str
    kind: Kind
    layers: tuple[LayerCost, ...]
    resources: Mapping[str, float]
    whole: bool


def time_of(resources: Mapping[str, float]) -> str:
    """Return the key of what stands for time in costs; empty where nothing does."""
    return next((key for key in resources if key not in COMMON), "")


def added(layers: Iterable[LayerCost]) -> dict[str, float]:
    """Add the resources of some layers up."""
    sums: Counter[str] = Counter()
    for layer in layers:
        sums.update(layer.resources)
    return dict(sums)
