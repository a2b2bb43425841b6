"""The published networks: MobileNetV2, MobileNetV3, MnasNet-A1 and -B1.

Sources: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, Tables 1 (Large) and 2
(Small); Sandler et al., "MobileNetV2", arXiv:1801.04381, Table 2; Tan et al., "MnasNet",
arXiv:1807.11626, figure 7 (A1); B1 as in torchvision's `mnasnet.py`. Where the papers are silent
(squeeze width, the rounding of channels) the numbers are those of torchvision and timm, whose
parameter counts these tables reproduce.
"""

from dataclasses import dataclass, replace

from mbv3c.graphs.architecture import (
    Activation,
    Architecture,
    Block,
    GateFunction,
    make_divisible,
    squeeze_channels,
)

# fmt: off
LARGE = Architecture(
    stem=16,
    blocks=(
        #     k  expand out  squeeze activation  stride
        Block(3,  16,   16,    0,    "relu",      1),
        Block(3,  64,   24,    0,    "relu",      2),
        Block(3,  72,   24,    0,    "relu",      1),
        Block(5,  72,   40,   24,    "relu",      2),
        Block(5, 120,   40,   32,    "relu",      1),
        Block(5, 120,   40,   32,    "relu",      1),
        Block(3, 240,   80,    0,    "hardswish", 2),
        Block(3, 200,   80,    0,    "hardswish", 1),
        Block(3, 184,   80,    0,    "hardswish", 1),
        Block(3, 184,   80,    0,    "hardswish", 1),
        Block(3, 480,  112,  120,    "hardswish", 1),
        Block(3, 672,  112,  168,    "hardswish", 1),
        Block(5, 672,  160,  168,    "hardswish", 2),
        Block(5, 960,  160,  240,    "hardswish", 1),
        Block(5, 960,  160,  240,    "hardswish", 1),
    ),
    last_conv=960,
    hidden=1280,
)

SMALL = Architecture(
    stem=16,
    blocks=(
        #     k  expand out  squeeze activation  stride
        Block(3,  16,   16,    8,    "relu",      2),
        Block(3,  72,   24,    0,    "relu",      2),
        Block(3,  88,   24,    0,    "relu",      1),
        Block(5,  96,   40,   24,    "hardswish", 2),
        Block(5, 240,   40,   64,    "hardswish", 1),
        Block(5, 240,   40,   64,    "hardswish", 1),
        Block(5, 120,   48,   32,    "hardswish", 1),
        Block(5, 144,   48,   40,    "hardswish", 1),
        Block(5, 288,   96,   72,    "hardswish", 2),
        Block(5, 576,   96,  144,    "hardswish", 1),
        Block(5, 576,   96,  144,    "hardswish", 1),
    ),
    last_conv=576,
    hidden=1024,
)
# fmt: on

VARIANTS: dict[str, Architecture] = {"large": LARGE, "small": SMALL}


@dataclass(frozen=True)
class Stage:
    """Blocks that differ in the first one's stride and input only.

    Attributes:
        expansion: channels of the expansion, as a multiple of the block's input.
        out: output channels.
        blocks: how many blocks.
        stride: stride of the first block; the others have 1.
        kernel: side of the depthwise kernels.
        squeezed: whether the blocks have a squeeze-and-excite branch.
    """

    expansion: int
    out: int
    blocks: int
    stride: int
    kernel: int = 3
    squeezed: bool = False


@dataclass(frozen=True)
class Chain:
    """A network of stages, with one linear layer as its classifier.

    Attributes:
        stages: its stages.
        activation: the only activation, but for gates.
        widens_tail: whether the last convolution has more channels above width 1. It never has
            fewer.
        gate: function at the end of every squeeze-and-excite branch.
    """

    stages: tuple[Stage, ...]
    activation: Activation
    widens_tail: bool = False
    gate: GateFunction = "sigmoid"


_STEM, _LAST_CONV = 32, 1280

# fmt: off
CHAINS: dict[str, Chain] = {
    "mobilenet_v2": Chain(
        (
            Stage(1,  16, 1, 1),
            Stage(6,  24, 2, 2),
            Stage(6,  32, 3, 2),
            Stage(6,  64, 4, 2),
            Stage(6,  96, 3, 1),
            Stage(6, 160, 3, 2),
            Stage(6, 320, 1, 1),
        ),
        "relu6",
        widens_tail=True,
    ),
    "mnasnet_a1": Chain(
        (
            Stage(1,  16, 1, 1),
            Stage(6,  24, 2, 2),
            Stage(3,  40, 3, 2, 5, True),
            Stage(6,  80, 4, 2),
            Stage(6, 112, 2, 1, 3, True),
            Stage(6, 160, 3, 2, 5, True),
            Stage(6, 320, 1, 1),
        ),
        "relu",
    ),
    "mnasnet_b1": Chain(
        (
            Stage(1,  16, 1, 1),
            Stage(3,  24, 3, 2),
            Stage(3,  40, 3, 2, 5),
            Stage(6,  80, 3, 2, 5),
            Stage(6,  96, 2, 1),
            Stage(6, 192, 4, 2, 5),
            Stage(6, 320, 1, 1),
        ),
        "relu",
    ),
}
# fmt: on


def mobilenet_v3(
    variant: str,
    width: float = 1.0,
    width_rule: str = "torchvision",
    *,
    minimalistic: bool = False,
    dilated: bool = False,
    reduced_tail: bool = False,
) -> Architecture:
    """Return a MobileNetV3: the paper's table with options applied.

    Both width rules round every count with `make_divisible`. `torchvision` scales every entry of
    the table. `tensorflow` (Keras' `MobileNetV3Large` and `Small`) keeps the stem at 16 channels,
    scales the outputs of the blocks, takes each expansion as the table's ratio times the block's
    real input, and scales the hidden layer only above width 1.

    Args:
        variant: a key of `VARIANTS`.
        width: multiplier of the channel counts.
        width_rule: `torchvision` or `tensorflow`.
        minimalistic: whether to leave out squeeze-and-excite and use only ReLU and 3x3 kernels.
        dilated: whether the last three blocks keep the resolution, with dilation 2.
        reduced_tail: whether the last three blocks and what follows have half the channels.
    """
    table = VARIANTS[variant]
    tail = len(table.blocks) - 3  # the last three blocks are C4, or C5 in detection's terms
    divisor = 2 if reduced_tail else 1
    scales_all = width_rule == "torchvision"
    stem = make_divisible(table.stem * width) if scales_all else table.stem
    blocks: list[Block] = []
    inputs = [table.stem, *(block.out for block in table.blocks)]
    for index, (block, channels) in enumerate(zip(table.blocks, inputs, strict=False)):
        out = block.out // divisor if index >= tail else block.out
        expand = block.expand // divisor if index > tail else block.expand
        source = channels // divisor if index > tail else channels
        real_input = blocks[-1].out if blocks else stem
        scaled = make_divisible(expand * width if scales_all else real_input * expand / source)
        dilation = 2 if dilated and index >= tail else 1
        blocks.append(
            replace(
                block,
                kernel=3 if minimalistic else block.kernel,
                expand=scaled,
                out=make_divisible(out * width),
                squeeze=squeeze_channels(scaled) if block.squeeze and not minimalistic else 0,
                activation="relu" if minimalistic else block.activation,
                stride=1 if dilation > 1 else block.stride,
                dilation=dilation,
            )
        )
    hidden = table.hidden // divisor
    return Architecture(
        stem=stem,
        blocks=tuple(blocks),
        last_conv=make_divisible(6 * blocks[-1].out),
        hidden=make_divisible(hidden * width) if scales_all or width > 1 else hidden,
        activation="relu" if minimalistic else table.activation,
    )


def chain(table: Chain, width: float = 1.0, *, dilated: bool = False) -> Architecture:
    """Return MobileNetV2 or an MnasNet.

    The width scales the stem and the outputs of the blocks. A gate's middle has a quarter of the
    channels of the block's input, not rounded to a multiple of eight. If `dilated`, the stage that
    would go to stride 32 stays at 16 and the blocks behind its first one have dilation 2, as in
    TensorFlow's `deeplab`.
    """
    stem = make_divisible(_STEM * width)
    blocks, channels, stride = list[Block](), stem, 2
    for stage in table.stages:
        for index in range(stage.blocks):
            step = stage.stride if index == 0 else 1
            stays = dilated and stride * step > 16
            beyond = dilated and stride > 16
            blocks.append(
                Block(
                    kernel=stage.kernel,
                    expand=channels * stage.expansion,
                    out=make_divisible(stage.out * width),
                    squeeze=max(1, channels // 4) if stage.squeezed else 0,
                    activation=table.activation,
                    stride=1 if stays else step,
                    dilation=2 if beyond else 1,
                )
            )
            stride *= step
            channels = blocks[-1].out
    wide = make_divisible(_LAST_CONV * width) if table.widens_tail and width > 1 else _LAST_CONV
    return Architecture(stem, tuple(blocks), wide, 0, table.activation, table.gate)
