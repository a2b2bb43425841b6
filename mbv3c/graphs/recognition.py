"""Recognise MobileNetV3 and its relatives by structure, whatever nodes and tensors are called.

The graph's blocks are read off its skeleton into an `Architecture`, and compared with those that
`spec` makes from the papers' tables.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import get_args

import onnx

from mbv3c.graphs.architecture import Architecture, Block, squeeze_channels
from mbv3c.graphs.blocks import MismatchError, read_architecture
from mbv3c.graphs.load import model_inputs, static_shape
from mbv3c.graphs.networks import VARIANTS
from mbv3c.graphs.skeleton import SkeletonStep, skeleton
from mbv3c.graphs.spec import (
    NARROWEST,
    NETWORKS,
    V3,
    ModelSpec,
    WidthRule,
    architecture,
)


@dataclass(frozen=True)
class Recognized:
    """A MobileNetV3 or a relative.

    Attributes:
        network: a key of `NETWORKS`.
        variant: a key of `VARIANTS`; None for other networks than MobileNetV3.
        width: width multiplier, the roundest of those that give these channels.
        width_rule: rule by which the width applies; None if all rules give these channels.
        resolution: height and width of the input.
        batch: images per inference.
        head: `classify`, `lraspp`, `raspp`, `ssdlite`, or None if something else follows the
            blocks.
        classes: number of classes, None without a head.
        blocks: number of inverted residual blocks.
        se_blocks: number of blocks with a squeeze-and-excite branch.
        activations: number of uses in the whole graph, by activation.
        minimalistic: value of `ModelSpec.minimalistic`.
        dilated: whether the last three blocks keep the resolution.
        reduced_tail: whether the last stage has half the channels.
    """

    network: str
    variant: str | None
    width: float
    width_rule: str | None
    resolution: tuple[int, int]
    batch: int
    head: str | None
    classes: int | None
    blocks: int
    se_blocks: int
    activations: dict[str, int]
    minimalistic: bool
    dilated: bool
    reduced_tail: bool

    @property
    def sentence(self) -> str:
        options = ("minimalistic", "dilated", "reduced_tail")
        parts = [
            NETWORKS[self.network].title
            + (f"-{self.variant.capitalize()}" if self.variant else ""),
            f"width {self.width:g}" + (f" ({self.width_rule} rule)" if self.width_rule else ""),
            *(name.replace("_", " ") for name in options if getattr(self, name)),
            "x".join(map(str, self.resolution)),
            f"batch {self.batch}",
            *([self.head] if self.head not in (None, "classify") else []),
            f"{self.classes} classes" if self.head else "without the classifier",
            f"{self.blocks} blocks, {self.se_blocks} with squeeze-and-excite",
            *(f"{count} {name}" for name, count in self.activations.items()),
        ]
        return ", ".join(parts)

    def to_json(self) -> dict[str, object]:
        return {"recognized": True, **asdict(self)}


@dataclass(frozen=True)
class Unrecognized:
    """Any other graph; `reason` names the first thing that none of the networks has."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"not recognised as a MobileNetV3: {self.reason}"

    def to_json(self) -> dict[str, object]:
        return {"recognized": False, **asdict(self)}


def recognize(model: onnx.ModelProto) -> Recognized | Unrecognized:
    """Say which MobileNetV3 or relative a graph is, or why it is none.

    The inputs must have fixed shapes. Fused or folded operators are not needed: what lies between
    two convolutions is recognised by what it computes.
    """
    inputs = model_inputs(model)
    if len(inputs) > 1:
        return Unrecognized(f"it has {len(inputs)} inputs, and MobileNetV3 takes one image")
    shape = static_shape(inputs[0])
    if shape is None or len(shape) != 4:
        return Unrecognized(f"the input has the shape {shape}, an image batch has 4 dimensions")
    try:
        steps = skeleton(model)
        network, head, classes = read_architecture(steps)
        specs = _with_channels(network, _with_layers(network))
    except MismatchError as mismatch:
        return Unrecognized(str(mismatch))
    rules, spec = {spec.width_rule for spec in specs}, specs[0]
    return Recognized(
        network=spec.network,
        variant=spec.variant if spec.network == V3 else None,
        width=spec.width,
        width_rule=rules.pop() if len(rules) == 1 and spec.network == V3 else None,
        # Three channels stand second, or last in what came from TensorFlow.
        resolution=(shape[1], shape[2]) if shape[1] != 3 == shape[3] else (shape[2], shape[3]),
        batch=shape[0],
        head=head,
        classes=classes or None,
        blocks=len(network.blocks),
        se_blocks=sum(block.squeeze > 0 for block in network.blocks),
        activations=_activations(steps),
        minimalistic=spec.minimalistic,
        dilated=spec.dilated,
        reduced_tail=spec.reduced_tail,
    )


def _activations(steps: tuple[SkeletonStep, ...]) -> dict[str, int]:
    used = {source for step in steps for source in step.sources if source.activation != "none"}
    return dict(sorted(Counter(source.activation for source in used).items()))


def _with_layers(network: Architecture) -> list[ModelSpec]:
    """Return the networks and options with these kernels, strides, activations and branches."""
    known = _known()
    candidates = [spec for spec, blocks in known if blocks == len(network.blocks)]
    if not candidates:
        counts = dict.fromkeys(f"{_title(spec)} {blocks}" for spec, blocks in known)
        raise MismatchError(
            f"it has {len(network.blocks)} inverted residual blocks; {', '.join(counts)}"
        )
    fitting, refused = [], []
    for spec in candidates:
        differences = list(_differences(network, architecture(spec), spec.network))
        if differences:
            refused.append((len(differences), f"{differences[0]} in {_title(spec)}"))
        else:
            fitting.append(spec)
    if not fitting:
        raise MismatchError(min(refused)[1])
    return fitting


def _known() -> list[tuple[ModelSpec, int]]:
    """Return every network and option that changes layers, with the number of blocks."""
    switches = (False, True)
    specs = [
        ModelSpec(variant, minimalistic=minimalistic, dilated=dilated)
        for variant, minimalistic, dilated in product(VARIANTS, switches, switches)
    ]
    others = [name for name in NETWORKS if name != V3]
    specs += [
        ModelSpec(network=name, dilated=dilated) for name, dilated in product(others, switches)
    ]
    return [(spec, len(architecture(spec).blocks)) for spec in specs]


def _title(spec: ModelSpec) -> str:
    title = NETWORKS[spec.network].title
    return f"{title}-{spec.variant}" if spec.network == V3 else title


def _differences(network: Architecture, wanted: Architecture, name: str) -> Iterator[str]:
    """Yield differences of two networks with equally many blocks, channel counts left aside."""
    if network.activation != wanted.activation:
        yield f"the activation of the stem is {network.activation}, {wanted.activation}"
    branches = any(block.squeeze for block in network.blocks)
    if branches and network.gate != wanted.gate:
        yield f"the gates are {network.gate}, {wanted.gate}"
    for number, (mine, theirs) in enumerate(zip(network.blocks, wanted.blocks, strict=True), 1):
        for field in fields(Block):
            got, want = getattr(mine, field.name), getattr(theirs, field.name)
            if field.name == "squeeze":
                got, want = got > 0, want > 0
            if field.name not in ("expand", "out") and got != want:
                yield f"{field.name} of block {number} is {got}, {want}"
        wide = squeeze_channels(mine.expand)
        if name == V3 and mine.squeeze and theirs.squeeze and mine.squeeze != wide:
            yield (
                f"the squeeze-and-excite branch of block {number} has {mine.squeeze} channels, "
                f"{wide}"
            )


def _with_channels(network: Architecture, layers: list[ModelSpec]) -> list[ModelSpec]:
    """Return the specs of the roundest width with these channels, one per rule that gives them."""
    for base, width in product(layers, _widths(max(NETWORKS[s.network].widest for s in layers))):
        if width > NETWORKS[base.network].widest:
            continue
        of_v3 = base.network == V3
        for reduced in (False, True) if of_v3 else (False,):
            specs = []
            for rule in get_args(WidthRule) if of_v3 else (base.width_rule,):
                spec = replace(base, width=width, width_rule=rule, reduced_tail=reduced)
                wanted = architecture(spec)
                if not network.last_conv:
                    wanted = replace(wanted, last_conv=0, hidden=0)
                if _without_gate(wanted) == _without_gate(network):
                    specs.append(spec)
            if specs:
                return specs
    outputs = ", ".join(str(block.out) for block in network.blocks)
    widest = NETWORKS[layers[0].network].widest
    raise MismatchError(
        f"no width multiplier from {NARROWEST:g} to {widest:g} gives {_title(layers[0])} "
        f"the channel counts of this model (stem {network.stem}, blocks {outputs})"
    )


def _without_gate(network: Architecture) -> Architecture:
    """Return a network without the function of its gates, which has been compared before."""
    return replace(network, gate="sigmoid")


def _widths(widest: float) -> list[float]:
    """Return every width in thousandths, the round ones first."""
    thousandths = range(round(NARROWEST * 1000), round(widest * 1000) + 1)
    steps = (1000, 250, 50, 10)
    return [n / 1000 for n in sorted(thousandths, key=lambda n: [n % step > 0 for step in steps])]
