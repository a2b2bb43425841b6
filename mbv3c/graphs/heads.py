"""What stands on the features: classification, segmentation by (L)R-ASPP, or detection."""

from collections.abc import Callable

from mbv3c.graphs.architecture import Architecture
from mbv3c.graphs.spec import ModelSpec
from mbv3c.graphs.ssdlite import ssdlite
from mbv3c.graphs.writer import Features, GraphOutput, GraphWriter

LOGITS = "logits"

_LRASPP_CHANNELS = 128
_PAPER_WINDOW, _PAPER_STRIDES = 49, (16, 20)
_RASPP_CHANNELS = 256
_ASPP_EPSILON = 1e-5  # of the heads' BatchNormalizations, torch's and deeplab's default


# Writes what LR-ASPP multiplies its features by, from the last convolution's output.
Gate = Callable[[GraphWriter, Features, ModelSpec], str]

# Writes the head and returns the outputs of the graph.
Head = Callable[[GraphWriter, Features, Architecture, ModelSpec], tuple[GraphOutput, ...]]


def classify(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[GraphOutput, ...]:
    """Write MobileNetV3's efficient last stage, or without a hidden layer one linear layer.

    Source: arXiv:1905.02244, section 5.1 and figure 5.
    """
    x = graph.node("GlobalAveragePool", "pool", [features.last])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    if arch.hidden:
        x = graph.gemm("classifier.0", x, features.channels, arch.hidden)
        x = graph.activation("classifier.1", x, arch.activation)
        graph.gemm("classifier.3", x, arch.hidden, spec.classes, output=LOGITS)
    else:
        graph.gemm("classifier.1", x, features.channels, spec.classes, output=LOGITS)
    return (GraphOutput(LOGITS, (spec.batch, spec.classes), class_axis=1),)


def lraspp(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[GraphOutput, ...]:
    """Write LR-ASPP as torchvision has it: on the stride-16 and stride-8 features, upsampled.

    Source: arXiv:1905.02244, section 6.4 and figure 10. torchvision pools the whole map, the
    paper windows of 49x49 pixels (`spec.lraspp_pool`).
    """
    low, low_channels = _stride_8(features, arch)
    x = graph.conv_bn(
        "classifier.cbr", features.last, features.channels, _LRASPP_CHANNELS, epsilon=_ASPP_EPSILON
    )
    x = graph.activation("classifier.cbr.act", x, "relu")
    s = _GATES[spec.lraspp_pool](graph, features, spec)
    x = graph.node("Mul", "classifier.scale.mul", [x, s])
    x = graph.upsample("classifier.upsample", x, 2)
    x = graph.conv_bias("classifier.high", x, _LRASPP_CHANNELS, spec.classes)
    y = graph.conv_bias("classifier.low", low, low_channels, spec.classes)
    x = graph.node("Add", "classifier.add", [y, x])
    graph.upsample("upsample", x, 8, output=LOGITS)
    shape = (spec.batch, spec.classes, spec.resolution, spec.resolution)
    return (GraphOutput(LOGITS, shape, class_axis=1),)


def _global_gate(graph: GraphWriter, features: Features, spec: ModelSpec) -> str:
    s = graph.node("GlobalAveragePool", "classifier.scale.pool", [features.last])
    s = graph.conv("classifier.scale", s, features.channels, _LRASPP_CHANNELS)
    return graph.node("Sigmoid", "classifier.scale.gate", [s])


def _paper_gate(graph: GraphWriter, features: Features, spec: ModelSpec) -> str:
    """Write the gate of figure 10: 49x49 windows at stride (16, 20), upsampled to the map.

    Windows that would reach beyond the map are left out; a map smaller than a window is one window
    itself. The paper does not say how its 64x128 map, of a 1024x2048 image, is covered; this is
    what average pooling without padding gives.
    """
    side = graph.side(features.last)
    kernel = min(_PAPER_WINDOW, side)
    s = graph.node(
        "AveragePool",
        "classifier.scale.pool",
        [features.last],
        kernel_shape=[kernel, kernel],
        strides=list(_PAPER_STRIDES),
    )
    s = graph.conv("classifier.scale", s, features.channels, _LRASPP_CHANNELS)
    s = graph.node("Sigmoid", "classifier.scale.gate", [s])
    if side < _PAPER_WINDOW + min(_PAPER_STRIDES):
        return s  # one window: the gate is the same everywhere
    return graph.resize("classifier.scale.upsample", s, (spec.batch, _LRASPP_CHANNELS, side, side))


_GATES: dict[str, Gate] = {"global": _global_gate, "paper": _paper_gate}


def _stride_8(features: Features, arch: Architecture) -> tuple[str, int]:
    """Return the first block output at stride 8, as torchvision does, and its channels."""
    index = arch.first_at(8)
    assert index is not None, "checked with the spec"
    return features.blocks[index], arch.blocks[index].out


def raspp(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[GraphOutput, ...]:
    """Write R-ASPP: the mean of the stride-16 features beside a projection of them, upsampled.

    Source: Howard et al., arXiv:1905.02244, section 6.4; TensorFlow's deeplab, where MobileNetV2
    has it on its last block. Corners are not aligned, as in LR-ASPP here; deeplab aligns them.
    """
    side, wide = graph.side(features.last), _RASPP_CHANNELS

    def projected(name: str, x: str, channels: int) -> str:
        y = graph.conv_bn(f"classifier.{name}", x, channels, wide, epsilon=_ASPP_EPSILON)
        return graph.activation(f"classifier.{name}.act", y, "relu")

    s = graph.node("GlobalAveragePool", "classifier.pool", [features.last])
    s = projected("image", s, features.channels)
    s = graph.resize("classifier.image.upsample", s, (spec.batch, wide, side, side))
    x = projected("aspp", features.last, features.channels)
    x = graph.node("Concat", "classifier.concat", [s, x], axis=1)
    x = projected("project", x, 2 * wide)
    x = graph.conv_bias("classifier.logits", x, wide, spec.classes)
    graph.upsample("upsample", x, 16, output=LOGITS)
    shape = (spec.batch, spec.classes, spec.resolution, spec.resolution)
    return (GraphOutput(LOGITS, shape, class_axis=1),)


HEADS: dict[str, Head] = {
    "classify": classify,
    "lraspp": lraspp,
    "raspp": raspp,
    "ssdlite": ssdlite,
}
