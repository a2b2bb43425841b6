"""What stands on the features: classification, segmentation by LR-ASPP, or detection."""

from collections.abc import Callable

from mbv3c.graphs.spec import Architecture, ModelSpec
from mbv3c.graphs.ssdlite import ssdlite
from mbv3c.graphs.writer import Features, GraphOutput, GraphWriter

LOGITS = "logits"

_LRASPP_CHANNELS = 128
_PAPER_WINDOW, _PAPER_STRIDES = 49, (16, 20)
_LRASPP_EPSILON = 1e-5  # of its one BatchNormalization, torch's default


# Writes what LR-ASPP multiplies its features by, from the last convolution's output.
Gate = Callable[[GraphWriter, str, Architecture, ModelSpec], str]

# Writes the head and returns the outputs of the graph.
Head = Callable[[GraphWriter, Features, Architecture, ModelSpec], tuple[GraphOutput, ...]]


def classify(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[GraphOutput, ...]:
    """Write the paper's efficient last stage (arXiv:1905.02244, section 5.1 and figure 5)."""
    x = graph.node("GlobalAveragePool", "pool", [features.last])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    x = graph.gemm("classifier.0", x, arch.last_conv, arch.hidden)
    x = graph.activation("classifier.1", x, arch.activation)
    graph.gemm("classifier.3", x, arch.hidden, spec.classes, output=LOGITS)
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
        "classifier.cbr", features.last, arch.last_conv, _LRASPP_CHANNELS, epsilon=_LRASPP_EPSILON
    )
    x = graph.activation("classifier.cbr.act", x, "relu")
    s = _GATES[spec.lraspp_pool](graph, features.last, arch, spec)
    x = graph.node("Mul", "classifier.scale.mul", [x, s])
    x = graph.upsample("classifier.upsample", x, 2)
    x = graph.conv_bias("classifier.high", x, _LRASPP_CHANNELS, spec.classes)
    y = graph.conv_bias("classifier.low", low, low_channels, spec.classes)
    x = graph.node("Add", "classifier.add", [y, x])
    graph.upsample("upsample", x, 8, output=LOGITS)
    shape = (spec.batch, spec.classes, spec.resolution, spec.resolution)
    return (GraphOutput(LOGITS, shape, class_axis=1),)


def _global_gate(graph: GraphWriter, x: str, arch: Architecture, spec: ModelSpec) -> str:
    s = graph.node("GlobalAveragePool", "classifier.scale.pool", [x])
    s = graph.conv("classifier.scale", s, arch.last_conv, _LRASPP_CHANNELS)
    return graph.node("Sigmoid", "classifier.scale.gate", [s])


def _paper_gate(graph: GraphWriter, x: str, arch: Architecture, spec: ModelSpec) -> str:
    """Write the gate of figure 10: 49x49 windows at stride (16, 20), upsampled to the map.

    Windows that would reach beyond the map are left out; a map smaller than a window is one window
    itself. The paper does not say how its 64x128 map, of a 1024x2048 image, is covered; this is
    what average pooling without padding gives.
    """
    side = graph.side(x)
    kernel = min(_PAPER_WINDOW, side)
    s = graph.node(
        "AveragePool",
        "classifier.scale.pool",
        [x],
        kernel_shape=[kernel, kernel],
        strides=list(_PAPER_STRIDES),
    )
    s = graph.conv("classifier.scale", s, arch.last_conv, _LRASPP_CHANNELS)
    s = graph.node("Sigmoid", "classifier.scale.gate", [s])
    if side < _PAPER_WINDOW + min(_PAPER_STRIDES):
        return s  # one window: the gate is the same everywhere
    return graph.resize("classifier.scale.upsample", s, (spec.batch, _LRASPP_CHANNELS, side, side))


_GATES: dict[str, Gate] = {"global": _global_gate, "paper": _paper_gate}


def _stride_8(features: Features, arch: Architecture) -> tuple[str, int]:
    """Return the first block output at stride 8, as torchvision does, and its channels."""
    stride = 2  # of the stem
    for name, block in zip(features.blocks, arch.blocks, strict=True):
        stride *= block.stride
        if stride == 8:
            return name, block.out
    raise AssertionError("every MobileNetV3 passes through stride 8")


HEADS: dict[str, Head] = {"classify": classify, "lraspp": lraspp, "ssdlite": ssdlite}
