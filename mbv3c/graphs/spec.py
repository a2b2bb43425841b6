"""MobileNetV3 as data.

Source: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, Tables 1 (Large) and 2
(Small). Where the paper is silent (squeeze width, BatchNormalization epsilon) the numbers are
those of torchvision's `mobilenetv3.py`, whose parameter counts these tables reproduce.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from mbv3c.errors import UsageError

Activation = Literal["relu", "hardswish"]
WidthRule = Literal["torchvision", "tensorflow"]
PaddingRule = Literal["symmetric", "same"]
HeadName = Literal["classify", "lraspp", "ssdlite"]
LrasppPool = Literal["global", "paper"]

BATCHNORM_EPSILON = 1e-3
NARROWEST, WIDEST = 0.35, 1.25


@dataclass(frozen=True)
class HeadTraits:
    """What a head needs from the network, and the defaults that torchvision has for it.

    Attributes:
        classes: default number of classes, that of torchvision's pretrained model.
        resolution: default side of the input in pixels.
        resolutions: the sides that are supported.
        mean: mean per RGB channel, subtracted from an image scaled to 0..1.
        std: standard deviation per RGB channel, by which the difference is divided.
        dilated: whether the head stands on output stride 16.
        reduced_tail: whether the head stands on a last stage with half the channels.
        calibration: side of the images on which the statistics of seeded weights are measured.
            It is independent of the resolution, so that the weights are, too; but the smallest
            maps of a detector have neighbouring pixels only at the detector's own resolution.
        detects: whether the head finds objects: it then needs features at stride 32, and its
            first class is the background.
    """

    classes: int
    resolution: int
    resolutions: range
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    dilated: bool = False
    reduced_tail: bool = False
    calibration: int = 128
    detects: bool = False


HEAD_TRAITS: dict[str, HeadTraits] = {
    # ImageNet
    "classify": HeadTraits(1000, 224, range(96, 513, 32)),
    # COCO with the labels of Pascal VOC; the paper segments images of up to 2048 pixels
    "lraspp": HeadTraits(21, 224, range(96, 2049, 32), dilated=True),
    # COCO with its gaps, background included; trained from nothing, hence the reduced tail
    "ssdlite": HeadTraits(
        classes=91,
        resolution=320,
        resolutions=range(320, 321),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        reduced_tail=True,
        calibration=320,
        detects=True,
    ),
}


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
        dilation: dilation of the depthwise convolution.
    """

    kernel: int
    expand: int
    out: int
    squeeze: bool
    activation: Activation
    stride: int
    dilation: int = 1


@dataclass(frozen=True)
class Architecture:
    """A whole classification network.

    Attributes:
        stem: output channels of the first 3x3 convolution (stride 2).
        blocks: the inverted residual blocks in order.
        last_conv: channels of the 1x1 convolution before the global pool.
        hidden: width of the classifier's hidden layer (no BatchNormalization).
        activation: activation of the stem, the last convolution and the hidden layer.
    """

    stem: int
    blocks: tuple[Block, ...]
    last_conv: int
    hidden: int
    activation: Activation = "hardswish"


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
        width: multiplier of the channel counts, 0.35 to 1.25.
        width_rule: how `width` applies, see `architecture`.
        padding: `symmetric` (kernel // 2 on every side: torchvision, timm) or `same`
            (TensorFlow's: at stride 2 one row and column more at the end than at the start).
        minimalistic: whether to leave out squeeze-and-excite and use only ReLU and 3x3 kernels.
        dilated: whether the last three blocks keep the resolution, with dilation 2, so that the
            output stride is 16.
        reduced_tail: whether the last three blocks, the last convolution and the hidden layer
            have half the channels.
        bn_epsilon: epsilon of every BatchNormalization outside LR-ASPP's head. Checkpoints of
            torchvision and timm's `tf_*` want 1e-3, timm's other `mobilenetv3_*` want 1e-5; a
            state dict does not say which.
        head: `classify`, `lraspp` (segmentation, which implies `dilated`) or `ssdlite` (detection,
            which implies `reduced_tail`, as in torchvision, and excludes `dilated`).
        lraspp_pool: how LR-ASPP pools its features: `global` (torchvision), or `paper`: windows of
            49x49 at stride (16, 20), which differ from the whole map above 784 pixels.
        resolution: side of the square input in pixels, one that `HEAD_TRAITS` lists for the head.
        classes: number of logits, at least 1; for detection at least 2, the first of which is
            the background.
        batch: images per inference, at least 1.
        seed: seed of the weights.

    Raises:
        UsageError: a value is not among those listed above.
    """

    variant: str = "large"
    width: float = 1.0
    width_rule: str = "torchvision"
    padding: str = "symmetric"
    minimalistic: bool = False
    dilated: bool = False
    reduced_tail: bool = False
    bn_epsilon: float = BATCHNORM_EPSILON
    head: str = "classify"
    lraspp_pool: str = "global"
    resolution: int = 224
    classes: int = 1000
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "variant": tuple(VARIANTS),
            "width_rule": get_args(WidthRule),
            "padding": get_args(PaddingRule),
            "head": get_args(HeadName),
            "lraspp_pool": get_args(LrasppPool),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                option = field.replace("_", "-")
                raise UsageError(
                    f"unknown {option} {getattr(self, field)!r}; known: {', '.join(known)}"
                )
        if not NARROWEST <= self.width <= WIDEST:
            raise UsageError(f"width must be {NARROWEST} to {WIDEST}, got {self.width:g}")
        head = HEAD_TRAITS[self.head]
        sides = head.resolutions
        if self.resolution not in sides:
            several = f"{sides[0]} to {sides[-1]} by {sides.step}"
            raise UsageError(
                f"resolution {self.resolution} is not supported with head {self.head}; choose "
                f"{several if len(sides) > 1 else sides[0]}"
            )
        if self.lraspp_pool != "global" and self.head != "lraspp":
            raise UsageError(f"lraspp-pool belongs to head lraspp, not to {self.head}")
        if head.detects and self.dilated:
            raise UsageError(
                f"dilated does not go with head {self.head}, which needs features at stride 32"
            )
        if not 0 < self.bn_epsilon < 1:
            raise UsageError(f"bn-epsilon must lie between 0 and 1, got {self.bn_epsilon:g}")
        for field in ("classes", "batch"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be at least 1, got {getattr(self, field)}")
        if head.detects and self.classes < 2:
            raise UsageError(
                f"head {self.head} needs at least 2 classes: the first one is the background"
            )
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, got {self.seed}")

    @property
    def name(self) -> str:
        """Name of the model in files and bundles, e.g. `mobilenet_v3_large_0.75`."""
        parts = ["mobilenet_v3", self.variant]
        parts += [f"{self.width:g}"] if self.width != 1.0 else []
        parts += [self.head] if self.head != "classify" else []
        parts += [f"{self.lraspp_pool}_pool"] if self.lraspp_pool != "global" else []
        flags = ("minimalistic", "dilated", "reduced_tail")
        return "_".join([*parts, *(flag for flag in flags if getattr(self, flag))])

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor, NCHW."""
        return (self.batch, 3, self.resolution, self.resolution)


def architecture(spec: ModelSpec) -> Architecture:
    """Return the layers of a spec: the paper's table with its options applied.

    Both width rules round every count with `make_divisible`. `torchvision` scales every entry of
    the table. `tensorflow` (Keras' `MobileNetV3Large` and `Small`) keeps the stem at 16 channels,
    scales the outputs of the blocks, takes each expansion as the table's ratio times the block's
    real input, and scales the hidden layer only above width 1.
    """
    table = VARIANTS[spec.variant]
    tail = len(table.blocks) - 3  # the last three blocks are C4, or C5 in detection's terms
    head = HEAD_TRAITS[spec.head]
    divisor = 2 if spec.reduced_tail or head.reduced_tail else 1
    dilated = spec.dilated or head.dilated
    scales_all = spec.width_rule == "torchvision"
    stem = make_divisible(table.stem * spec.width) if scales_all else table.stem
    blocks: list[Block] = []
    inputs = [table.stem, *(block.out for block in table.blocks)]
    for index, (block, channels) in enumerate(zip(table.blocks, inputs, strict=False)):
        out = block.out // divisor if index >= tail else block.out
        expand = block.expand // divisor if index > tail else block.expand
        source = channels // divisor if index > tail else channels
        real_input = blocks[-1].out if blocks else stem
        scaled = expand * spec.width if scales_all else real_input * expand / source
        dilation = 2 if dilated and index >= tail else 1
        blocks.append(
            replace(
                block,
                kernel=3 if spec.minimalistic else block.kernel,
                expand=make_divisible(scaled),
                out=make_divisible(out * spec.width),
                squeeze=block.squeeze and not spec.minimalistic,
                activation="relu" if spec.minimalistic else block.activation,
                stride=1 if dilation > 1 else block.stride,
                dilation=dilation,
            )
        )
    hidden = table.hidden // divisor
    return Architecture(
        stem=stem,
        blocks=tuple(blocks),
        last_conv=make_divisible(6 * blocks[-1].out),
        hidden=make_divisible(hidden * spec.width) if scales_all or spec.width > 1 else hidden,
        activation="relu" if spec.minimalistic else table.activation,
    )


def pads(rule: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the padding before and after one dimension of `size` pixels."""
    reach = (kernel - 1) * dilation
    if rule == "symmetric":
        return reach // 2, reach // 2
    total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


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
