"""MobileNetV3 as data.

Source: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, Tables 1 (Large) and 2
(Small). Where the paper is silent (squeeze width, BatchNormalization epsilon) the numbers are
those of torchvision's `mobilenetv3.py`, whose parameter counts these tables reproduce.
"""

from dataclasses import dataclass
from typing import Literal

from mbv3c.errors import UsageError

Activation = Literal["relu", "hardswish"]

BATCHNORM_EPSILON = 1e-3
RESOLUTIONS = tuple(range(96, 257, 32))

# ImageNet statistics with which the published checkpoints were trained, per RGB channel of an
# image scaled to 0..1.
PREPROCESSING_MEAN = (0.485, 0.456, 0.406)
PREPROCESSING_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Block:
    """One inverted residual block (one row of the paper's table).

    Attributes:
        kernel: side of the depthwise kernel.
        expand: channels between the expansion and the projection.
        out: output channels.
        squeeze: whether a squeeze-and-excite branch follows the depthwise activation.
        activation: activation after the expansion and the depthwise convolution.
        stride: stride of the depthwise convolution.
    """

    kernel: int
    expand: int
    out: int
    squeeze: bool
    activation: Activation
    stride: int


@dataclass(frozen=True)
class Architecture:
    """A whole classification network.

    Attributes:
        stem: output channels of the first 3x3 convolution (stride 2, hard-swish).
        blocks: the inverted residual blocks in order.
        last_conv: channels of the 1x1 convolution before the global pool (hard-swish).
        hidden: width of the classifier's hidden layer (hard-swish, no BatchNormalization).
    """

    stem: int
    blocks: tuple[Block, ...]
    last_conv: int
    hidden: int


# fmt: off
LARGE = Architecture(
    stem=16,
    blocks=(
        #     k  expand out  squeeze activation  stride
        Block(3,  16,   16,  False,  "relu",      1),
        Block(3,  64,   24,  False,  "relu",      2),
        Block(3,  72,   24,  False,  "relu",      1),
        Block(5,  72,   40,  True,   "relu",      2),
        Block(5, 120,   40,  True,   "relu",      1),
        Block(5, 120,   40,  True,   "relu",      1),
        Block(3, 240,   80,  False,  "hardswish", 2),
        Block(3, 200,   80,  False,  "hardswish", 1),
        Block(3, 184,   80,  False,  "hardswish", 1),
        Block(3, 184,   80,  False,  "hardswish", 1),
        Block(3, 480,  112,  True,   "hardswish", 1),
        Block(3, 672,  112,  True,   "hardswish", 1),
        Block(5, 672,  160,  True,   "hardswish", 2),
        Block(5, 960,  160,  True,   "hardswish", 1),
        Block(5, 960,  160,  True,   "hardswish", 1),
    ),
    last_conv=960,
    hidden=1280,
)

SMALL = Architecture(
    stem=16,
    blocks=(
        #     k  expand out  squeeze activation  stride
        Block(3,  16,   16,  True,   "relu",      2),
        Block(3,  72,   24,  False,  "relu",      2),
        Block(3,  88,   24,  False,  "relu",      1),
        Block(5,  96,   40,  True,   "hardswish", 2),
        Block(5, 240,   40,  True,   "hardswish", 1),
        Block(5, 240,   40,  True,   "hardswish", 1),
        Block(5, 120,   48,  True,   "hardswish", 1),
        Block(5, 144,   48,  True,   "hardswish", 1),
        Block(5, 288,   96,  True,   "hardswish", 2),
        Block(5, 576,   96,  True,   "hardswish", 1),
        Block(5, 576,   96,  True,   "hardswish", 1),
    ),
    last_conv=576,
    hidden=1024,
)
# fmt: on

VARIANTS: dict[str, Architecture] = {"large": LARGE, "small": SMALL}


@dataclass(frozen=True)
class ModelSpec:
    """What `build` is asked for.

    Attributes:
        variant: a key of `VARIANTS`.
        resolution: side of the square input in pixels, one of `RESOLUTIONS`.
        classes: number of logits, at least 1.
        batch: images per inference, at least 1.
        seed: seed of the weights.

    Raises:
        UsageError: a value is outside of what is listed above.
    """

    variant: str = "large"
    resolution: int = 224
    classes: int = 1000
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UsageError(f"unknown variant {self.variant!r}; known: {', '.join(VARIANTS)}")
        if self.resolution not in RESOLUTIONS:
            known = ", ".join(map(str, RESOLUTIONS))
            raise UsageError(f"resolution {self.resolution} is not supported; choose from {known}")
        for field in ("classes", "batch"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, got {self.seed}")

    @property
    def architecture(self) -> Architecture:
        return VARIANTS[self.variant]

    @property
    def name(self) -> str:
        """Name of the model in files and bundles, e.g. `mobilenet_v3_large`."""
        return f"mobilenet_v3_{self.variant}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor, NCHW."""
        return (self.batch, 3, self.resolution, self.resolution)


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to the nearest multiple of `divisor`.

    The result is at least `divisor` and never below 90 % of `value` (the rule of the TensorFlow
    and torchvision implementations).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeeze_channels(expand: int) -> int:
    """Width of the squeeze-and-excite bottleneck of a block with `expand` channels."""
    return make_divisible(expand / 4)
