"""What stands on the features: classification, or segmentation by LR-ASPP."""

from collections.abc import Callable
from dataclasses import dataclass

from mbv3c.graphs.spec import Architecture, ModelSpec
from mbv3c.graphs.writer import OUTPUT, GraphWriter

_LRASPP_CHANNELS = 128
_LRASPP_EPSILON = 1e-5  # of its one BatchNormalization, torch's default


@dataclass(frozen=True)
class Features:
    """Names of the tensors on which a head may stand.

    Attributes:
        blocks: the output of every inverted residual block, in order.
        last: the output of the last 1x1 convolution, activated.
    """

    blocks: tuple[str, ...]
    last: str


# Writes the head, whose output is OUTPUT, and returns the output's shape.
Head = Callable[[GraphWriter, Features, Architecture, ModelSpec], tuple[int, ...]]


def classify(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[int, ...]:
    """Write the paper's efficient last stage (arXiv:1905.02244, section 5.1 and figure 5)."""
    x = graph.node("GlobalAveragePool", "pool", [features.last])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    x = graph.gemm("classifier.0", x, arch.last_conv, arch.hidden)
    x = graph.activation("classifier.1", x, arch.activation)
    graph.gemm("classifier.3", x, arch.hidden, spec.classes, output=OUTPUT)
    return (spec.batch, spec.classes)


def lraspp(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[int, ...]:
    """Write LR-ASPP as torchvision has it: on the stride-16 and stride-8 features, upsampled.

    Source: arXiv:1905.02244, section 6.4 and figure 10. The paper pools 49x49 windows at stride
    (16, 20) of a 1024x2048 image; torchvision pools globally, which on the maps of the
    resolutions supported here, all smaller than such a window, is the same.
    """
    low, low_channels = _stride_8(features, arch)
    x = graph.conv_bn(
        "classifier.cbr", features.last, arch.last_conv, _LRASPP_CHANNELS, epsilon=_LRASPP_EPSILON
    )
    x = graph.activation("classifier.cbr.act", x, "relu")
    s = graph.node("GlobalAveragePool", "classifier.scale.pool", [features.last])
    s = graph.conv("classifier.scale", s, arch.last_conv, _LRASPP_CHANNELS)
    s = graph.node("Sigmoid", "classifier.scale.gate", [s])
    x = graph.node("Mul", "classifier.scale.mul", [x, s])
    x = graph.upsample("classifier.upsample", x, 2)
    x = graph.conv_bias("classifier.high", x, _LRASPP_CHANNELS, spec.classes)
    y = graph.conv_bias("classifier.low", low, low_channels, spec.classes)
    x = graph.node("Add", "classifier.add", [y, x])
    graph.upsample("upsample", x, 8, output=OUTPUT)
    return (spec.batch, spec.classes, spec.resolution, spec.resolution)


def _stride_8(features: Features, arch: Architecture) -> tuple[str, int]:
    """Return the first block output at an eighth of the input's resolution, and its channels.

    It is the first one and not the last, as in torchvision.
    """
    stride = 2  # of the stem
    for name, block in zip(features.blocks, arch.blocks, strict=True):
        stride *= block.stride
        if stride == 8:
            return name, block.out
    raise AssertionError("every MobileNetV3 passes through stride 8")


HEADS: dict[str, Head] = {"classify": classify, "lraspp": lraspp}
