"""Networks of inverted residual blocks as data: one description for all of them.

A stem of stride 2, blocks of expansion, depthwise convolution and projection, and a tail for
classification: MobileNetV2, MobileNetV3 and MnasNet differ in numbers and in a few functions.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["relu", "relu6", "hardswish"]
GateFunction = Literal["hardsigmoid", "sigmoid"]


@dataclass(frozen=True)
class Block:
    """One inverted residual block (one row of the papers' tables).

    Attributes:
        kernel: side of the depthwise kernel.
        expand: channels between the expansion and the projection. Where they are the channels of
            the block's input, the block has no expansion.
        out: output channels.
        squeeze: channels in the middle of the squeeze-and-excite branch that follows the
            depthwise activation; 0 for no branch.
        activation: activation after the expansion and the depthwise convolution.
        stride: stride of the depthwise convolution.
        dilation: dilation of the depthwise convolution.
    """

    kernel: int
    expand: int
    out: int
    squeeze: int
    activation: Activation
    stride: int
    dilation: int = 1


@dataclass(frozen=True)
class Architecture:
    """A whole classification network.

    Attributes:
        stem: output channels of the first 3x3 convolution (stride 2).
        blocks: the inverted residual blocks in order.
        last_conv: channels of the 1x1 convolution behind the blocks; 0 for none, under a head
            that stands on the last block.
        hidden: width of the classifier's hidden layer (no BatchNormalization); 0 for none.
        activation: activation of the stem, the last convolution and the hidden layer.
        gate: function at the end of every squeeze-and-excite branch.
    """

    stem: int
    blocks: tuple[Block, ...]
    last_conv: int
    hidden: int
    activation: Activation = "hardswish"
    gate: GateFunction = "hardsigmoid"

    def strides(self) -> tuple[int, ...]:
        """Return by how much each block's output is smaller than the image, per side."""
        total, found = 2, []
        for block in self.blocks:
            total *= block.stride
            found.append(total)
        return tuple(found)

    def first_at(self, stride: int) -> int | None:
        """Return the index of the first block whose output has a stride; None if none has."""
        strides = self.strides()
        return strides.index(stride) if stride in strides else None


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to the nearest multiple of `divisor`.

    The result is at least `divisor` and never below 90 % of `value` (the rule of the TensorFlow
    and torchvision implementations).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeeze_channels(expand: int) -> int:
    """Width of the squeeze-and-excite bottleneck of a MobileNetV3 block with `expand` channels."""
    return make_divisible(expand / 4)
