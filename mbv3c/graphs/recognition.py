"""Recognise MobileNetV3 by its structure, whatever its nodes and tensors are called.

The graph's blocks are read off its skeleton into an `Architecture`, and compared with those that
`spec` makes from the paper's tables.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import get_args

import onnx

from mbv3c.graphs.blocks import MismatchError, read_architecture
from mbv3c.graphs.load import model_inputs, static_shape
from mbv3c.graphs.skeleton import SkeletonStep, skeleton
from mbv3c.graphs.spec import (
    NARROWEST,
    VARIANTS,
    WIDEST,
    Architecture,
    Block,
    ModelSpec,
    WidthRule,
    architecture,
)


@dataclass(frozen=True)
class Recognized:
    """A MobileNetV3.

    Attributes:
        variant: a key of `VARIANTS`.
        width: width multiplier, the roundest of those that give these channels.
        width_rule: rule by which the width applies; None if all rules give these channels.
        resolution: height and width of the input.
        batch: images per inference.
        head: `classify`, `lraspp`, `ssdlite`, or None if something else follows the blocks.
        classes: number of classes, None without a head.
        blocks: number of inverted residual blocks.
        se_blocks: number of blocks with a squeeze-and-excite branch.
        activations: number of uses in the whole graph, by activation.
        minimalistic: value of `ModelSpec.minimalistic`.
        dilated: whether the last three blocks keep the resolution.
        reduced_tail: whether the last stage has half the channels.
    """

    variant: str
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
            f"MobileNetV3-{self.variant.capitalize()}",
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
    """Any other graph; `reason` names the first thing that MobileNetV3 does not have."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"not recognised as a MobileNetV3: {self.reason}"

    def to_json(self) -> dict[str, object]:
        return {"recognized": False, **asdict(self)}


def recognize(model: onnx.ModelProto) -> Recognized | Unrecognized:
    """Say which MobileNetV3 a graph is, or why it is none.

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
        variant=spec.variant,
        width=spec.width,
        width_rule=rules.pop() if len(rules) == 1 else None,
        # Three channels stand second, or last in what came from TensorFlow.
        resolution=(shape[1], shape[2]) if shape[1] != 3 == shape[3] else (shape[2], shape[3]),
        batch=shape[0],
        head=head,
        classes=classes or None,
        blocks=len(network.blocks),
        se_blocks=sum(block.squeeze for block in network.blocks),
        activations=_activations(steps),
        minimalistic=spec.minimalistic,
        dilated=spec.dilated,
        reduced_tail=spec.reduced_tail,
    )


def _activations(steps: tuple[SkeletonStep, ...]) -> dict[str, int]:
    used = {source for step in steps for source in step.sources if source.activation != "none"}
    return dict(sorted(Counter(source.activation for source in used).items()))


def _with_layers(network: Architecture) -> ModelSpec:
    """Return the variant and options with these kernels, strides, activations and SE branches."""
    variants = [v for v, table in VARIANTS.items() if len(table.blocks) == len(network.blocks)]
    if not variants:
        known = ", ".join(
            f"MobileNetV3-{variant} {len(table.blocks)}" for variant, table in VARIANTS.items()
        )
        raise MismatchError(f"it has {len(network.blocks)} inverted residual blocks; {known}")
    refused = []
    for variant, minimalistic, dilated in product(variants, (False, True), (False, True)):
        spec = ModelSpec(variant, minimalistic=minimalistic, dilated=dilated)
        differences = list(_differences(network, architecture(spec)))
        if not differences:
            return spec
        refused.append((len(differences), f"{differences[0]} in MobileNetV3-{variant}"))
    raise MismatchError(min(refused)[1])


def _differences(network: Architecture, wanted: Architecture) -> Iterator[str]:
    """Yield differences of two networks with equally many blocks, channel counts left aside."""
    if network.activation != wanted.activation:
        yield f"the activation of the stem is {network.activation}, {wanted.activation}"
    for number, (mine, theirs) in enumerate(zip(network.blocks, wanted.blocks, strict=True), 1):
        for field in fields(Block):
            got, want = getattr(mine, field.name), getattr(theirs, field.name)
            if field.name not in ("expand", "out") and got != want:
                yield f"{field.name} of block {number} is {got}, {want}"


def _with_channels(network: Architecture, layers: ModelSpec) -> list[ModelSpec]:
    """Return the specs of the roundest width with these channels, one per rule that gives them."""
    for width in _widths():
        for reduced in (False, True):
            specs = []
            for rule in get_args(WidthRule):
                spec = replace(layers, width=width, width_rule=rule, reduced_tail=reduced)
                wanted = architecture(spec)
                if not network.hidden:
                    wanted = replace(wanted, last_conv=0, hidden=0)
                if wanted == network:
                    specs.append(spec)
            if specs:
                return specs
    outputs = ", ".join(str(block.out) for block in network.blocks)
    raise MismatchError(
        f"no width multiplier from {NARROWEST:g} to {WIDEST:g} gives MobileNetV3-{layers.variant} "
        f"the channel counts of this model (stem {network.stem}, blocks {outputs})"
    )


def _widths() -> list[float]:
    """Return every width in thousandths, the round ones first."""
    thousandths = range(round(NARROWEST * 1000), round(WIDEST * 1000) + 1)
    steps = (1000, 250, 50, 10)
    return [n / 1000 for n in sorted(thousandths, key=lambda n: [n % step > 0 for step in steps])]
