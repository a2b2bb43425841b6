"""The networks among which a search chooses: MnasNet's hierarchical space around a MobileNetV3.

M. Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", arXiv:1807.11626,
section 4.1: a network is a chain of stages, and each stage has choices of its own that all of its
blocks share. Here they are the depthwise kernel, the expansion, squeeze-and-excite, the activation
(the choices that MobileNetV3 adds), the output channels and the number of blocks; beside them the
stem, the last convolution, the hidden layer and the resolution of the image.

Every combination is a network that can be built: channels are rounded as in MobileNetV3, and what
follows from a choice (the width of a gate, the input of the next block) is computed, not chosen.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log10
from typing import Any

import onnx

from mbv3c.errors import UsageError
from mbv3c.graphs.architecture import Activation, Architecture, Block, make_divisible
from mbv3c.graphs.architecture import squeeze_channels as gate_channels
from mbv3c.graphs.architecture_file import architecture_text
from mbv3c.graphs.builder import build_form, build_model
from mbv3c.graphs.networks import VARIANTS, mobilenet_v3
from mbv3c.graphs.spec import HEAD_TRAITS, NARROWEST, WIDEST, ModelSpec
from mbv3c.nearest import among

Value = int | float | str | bool
# For each choice its value's place among the values.
Picked = Mapping[str, int]

_KERNELS = (3, 5)
_EXPANSIONS = (2, 3, 4, 6)
_FIRST_EXPANSIONS = (1, 2, 3)  # MobileNetV3's first block has none
_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.25)
_TAIL = (
    2,
    3,
    4,
    6,
)  # channels of the last convolution, of those of the last block; 6 in the paper
_HIDDEN = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)  # of MobileNetV3's hidden layer; 0: none
_ACTIVATIONS: tuple[Activation, ...] = ("relu", "hardswish")
_GRAIN = 8
_PUBLISHED_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.25)  # of Keras and timm


@dataclass(frozen=True)
class Choice:
    """One thing that a search decides.

    Attributes:
        name: its name, such as `stage2.kernel`.
        values: what it may be.
        ordered: whether neighbouring values are alike, as of sizes.
    """

    name: str
    values: tuple[Value, ...]
    ordered: bool = True


@dataclass(frozen=True)
class Candidate:
    """A network for images of some size.

    Attributes:
        layers: its layers.
        resolution: side of the image in pixels.
    """

    layers: Architecture
    resolution: int

    @cached_property
    def name(self) -> str:
        """A name that depends on layers and resolution alone."""
        text = f"{architecture_text(self.layers)}{self.resolution}"
        return f"n{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def spec(self, classes: int, seed: int = 0) -> ModelSpec:
        """Return what `build` is asked for."""
        return ModelSpec(
            resolution=self.resolution,
            classes=classes,
            seed=seed,
            layers=self.layers,
            layers_name=self.name,
        )

    def build(self, classes: int, seed: int = 0) -> onnx.ModelProto:
        """Build the network with seeded weights."""
        return build_model(self.spec(classes, seed))

    def form(self, classes: int) -> onnx.ModelProto:
        """Build the network with weights of 0, to ask what it costs."""
        return build_form(self.spec(classes))


@dataclass(frozen=True)
class _Stage:
    """Blocks of the network around which to search that have equal outputs.

    Attributes:
        out: output channels.
        stride: stride of the first block.
        blocks: how many blocks.
    """

    out: int
    stride: int
    blocks: int


@dataclass(frozen=True)
class Space:
    """All networks of a search.

    Attributes:
        variant: the MobileNetV3 in its middle: a key of `VARIANTS`.
        resolutions: sides of the image, in pixels.
        grain: channels are multiples of it.

    Raises:
        UsageError: no such variant, a resolution that `build` does not take, or no resolution.
    """

    variant: str = "small"
    resolutions: tuple[int, ...] = (224,)
    grain: int = _GRAIN

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UsageError(f"unknown --variant {self.variant!r}{among(self.variant, VARIANTS)}")
        if not self.resolutions:
            raise UsageError("name at least one --resolution")
        sides = HEAD_TRAITS["classify"].resolutions
        wrong = [side for side in self.resolutions if side not in sides]
        if wrong:
            raise UsageError(
                f"--resolution {wrong[0]} is not supported; choose {sides[0]} to {sides[-1]} by "
                f"{sides.step}"
            )
        if self.grain < 1:
            raise UsageError(f"--grain must be at least 1, got {self.grain}")

    @cached_property
    def stages(self) -> tuple[_Stage, ...]:
        """The stages of the network in the middle."""
        found: list[_Stage] = []
        for block in VARIANTS[self.variant].blocks:
            if found and found[-1].out == block.out:
                found[-1] = _Stage(block.out, found[-1].stride, found[-1].blocks + 1)
            else:
                found.append(_Stage(block.out, block.stride, 1))
        return tuple(found)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """All that a search decides, in a fixed order."""
        table = VARIANTS[self.variant]
        found = [Choice("stem", self._channels(table.stem, (0.5, 1.0, 1.5)))]
        for index, stage in enumerate(self.stages, 1):
            name = f"stage{index}"
            found += [
                Choice(f"{name}.kernel", _KERNELS),
                Choice(f"{name}.expansion", _EXPANSIONS if index > 1 else _FIRST_EXPANSIONS),
                Choice(f"{name}.squeezed", (False, True), ordered=False),
                Choice(f"{name}.activation", _ACTIVATIONS, ordered=False),
                Choice(f"{name}.out", self._channels(stage.out, _WIDTHS)),
                Choice(f"{name}.blocks", tuple(range(1, stage.blocks + 2))),
            ]
        hidden = tuple(make_divisible(table.hidden * part) if part else 0 for part in _HIDDEN)
        found += [Choice("last_conv", _TAIL), Choice("hidden", hidden)]
        found.append(Choice("resolution", tuple(sorted(set(self.resolutions)))))
        return tuple(found)

    def _channels(self, count: int, factors: Sequence[float]) -> tuple[int, ...]:
        scaled = (make_divisible(count * factor, self.grain) for factor in factors)
        return tuple(dict.fromkeys(scaled))

    @property
    def decades(self) -> float:
        """How many combinations there are, as a power of ten."""
        return sum(log10(len(choice.values)) for choice in self.choices)

    def network(self, picked: Picked) -> Candidate:
        """Return the network of one value for each choice.

        Args:
            picked: for each choice's name the place of its value.

        Raises:
            KeyError: a choice is missing.
            IndexError: a choice has no value at that place.
        """
        value: dict[str, Any] = {
            choice.name: choice.values[picked[choice.name]] for choice in self.choices
        }
        blocks, channels = list[Block](), int(value["stem"])
        for index, stage in enumerate(self.stages, 1):
            name = f"stage{index}"
            for position in range(value[f"{name}.blocks"]):
                # An expansion by 1 is none: then the block's depthwise convolution has its input.
                ratio = value[f"{name}.expansion"]
                expand = make_divisible(channels * ratio, self.grain) if ratio > 1 else channels
                blocks.append(
                    Block(
                        kernel=value[f"{name}.kernel"],
                        expand=expand,
                        out=value[f"{name}.out"],
                        squeeze=gate_channels(expand) if value[f"{name}.squeezed"] else 0,
                        activation=value[f"{name}.activation"],
                        stride=stage.stride if position == 0 else 1,
                    )
                )
                channels = blocks[-1].out
        last = make_divisible(channels * value["last_conv"], self.grain)
        layers = Architecture(int(value["stem"]), tuple(blocks), last, int(value["hidden"]))
        return Candidate(layers, int(value["resolution"]))

    def to_json(self) -> dict[str, Any]:
        """Return all that decides which networks there are."""
        return {
            "variant": self.variant,
            "grain": self.grain,
            "choices": {choice.name: list(choice.values) for choice in self.choices},
        }


def width_family(variant: str, resolution: int, step: float = 0.01) -> dict[float, Candidate]:
    """Return a MobileNetV3 at all widths, narrowest first; of those with equal layers one.

    Args:
        variant: a key of `VARIANTS`.
        resolution: side of the image in pixels.
        step: distance of the widths, from 0.35 to 1.25.
    """
    count = round((WIDEST - NARROWEST) / step)
    widths = [round(NARROWEST + index * step, 4) for index in range(count + 1)]
    found: dict[Candidate, float] = {}
    for width in (*_PUBLISHED_WIDTHS, *widths):  # those that have a name first
        found.setdefault(Candidate(mobilenet_v3(variant, width), resolution), width)
    return {width: candidate for candidate, width in sorted(found.items(), key=lambda x: x[1])}
