"""Build MobileNetV3 and its relatives as ONNX graphs, spelled as training frameworks export them.

Convolutions carry no bias and are followed by BatchNormalization; hard-swish and hard-sigmoid
stand in primitive operators (Add, Clip, Mul, Div). The rewrites in `mbv3c.passes` turn this into
what a compiler wants; building the raw form here gives them real work and a reference.
"""

import hashlib
from pathlib import Path

import onnx

from mbv3c.graphs.architecture import Architecture, Block, GateFunction
from mbv3c.graphs.heads import HEADS
from mbv3c.graphs.initialize import initialize
from mbv3c.graphs.spec import HEAD_TRAITS, ModelSpec, architecture
from mbv3c.graphs.weights.files import load_weights
from mbv3c.graphs.writer import INPUT, Features, GraphWriter, add_metadata


def build_model(spec: ModelSpec, weights: Path | None = None) -> onnx.ModelProto:
    """Build the network with seeded weights, or with those of a file.

    Input `input` is fp32 NCHW `spec.input_shape`; output `logits` is fp32, with the classes on
    axis 1: `(spec.batch, spec.classes)`, for segmentation followed by the input's height and
    width. For detection the outputs are `boxes` and `scores`, see `mbv3c.graphs.ssdlite`. Nodes
    and tensors are named by block, as in torchvision: `features.4.se.reduce`, `classifier.3`.
    Equal specs give equal bytes.

    Args:
        spec: the network.
        weights: a file that `mbv3c.graphs.weights.files.load_weights` reads. The seed is then
            unused, and the metadata hold the file's sha256 instead.

    Returns:
        A model that passes `onnx.checker` with full check; its metadata hold the spec and the
        preprocessing that its inputs expect.

    Raises:
        UsageError: the file of weights cannot be read.
        ModelError: the file is damaged, or its weights are not those of the spec.
    """
    model = build_form(spec)
    if weights is None:
        initialize(model, spec.seed, HEAD_TRAITS[spec.head].calibration)
        origin = {"seed": str(spec.seed)}
    else:
        load_weights(model, weights)
        origin = {"weights": hashlib.sha256(weights.read_bytes()).hexdigest()}
    add_metadata(model, origin)
    onnx.checker.check_model(model, full_check=True)
    return model


def build_form(spec: ModelSpec) -> onnx.ModelProto:
    """Build what `build_model` does with weights of 0, which takes a tenth of the time.

    That is enough to count, and to ask what a network costs.
    """
    graph = GraphWriter(spec)
    arch = architecture(spec)
    outputs = HEADS[spec.head](graph, _features(graph, arch), arch, spec)
    return graph.model(spec, outputs)


def _features(graph: GraphWriter, arch: Architecture) -> Features:
    x = graph.conv_bn("features.0", INPUT, 3, arch.stem, kernel=3, stride=2)
    x = graph.activation("features.0.act", x, arch.activation)
    channels = arch.stem
    expansions, outputs = [], []
    for index, block in enumerate(arch.blocks, start=1):
        expanded, x = _inverted_residual(graph, f"features.{index}", x, channels, block, arch.gate)
        channels = block.out
        expansions.append(expanded)
        outputs.append(x)
    if not arch.last_conv:
        return Features(tuple(expansions), tuple(outputs), x, channels)
    last = f"features.{len(arch.blocks) + 1}"
    x = graph.conv_bn(last, x, channels, arch.last_conv)
    x = graph.activation(f"{last}.act", x, arch.activation)
    return Features(tuple(expansions), tuple(outputs), x, arch.last_conv)


def _inverted_residual(
    graph: GraphWriter, name: str, x: str, channels: int, block: Block, gate: GateFunction
) -> tuple[str, str]:
    """Write a block; return its activated expansion and its output."""
    y = x
    if block.expand != channels:
        y = graph.conv_bn(f"{name}.expand", y, channels, block.expand)
        y = graph.activation(f"{name}.expand.act", y, block.activation)
    expanded = y
    y = graph.depthwise_bn(
        f"{name}.depthwise", y, block.expand, block.kernel, block.stride, block.dilation
    )
    y = graph.activation(f"{name}.depthwise.act", y, block.activation)
    if block.squeeze:
        y = _squeeze_excite(graph, f"{name}.se", y, block, gate)
    y = graph.conv_bn(f"{name}.project", y, block.expand, block.out)
    if block.stride == 1 and block.out == channels:
        y = graph.node("Add", f"{name}.residual", [x, y])
    return expanded, y


def _squeeze_excite(
    graph: GraphWriter, name: str, x: str, block: Block, gate: GateFunction
) -> str:
    s = graph.node("GlobalAveragePool", f"{name}.pool", [x])
    s = graph.conv_bias(f"{name}.reduce", s, block.expand, block.squeeze)
    s = graph.node("Relu", f"{name}.relu", [s])
    s = graph.conv_bias(f"{name}.expand", s, block.squeeze, block.expand)
    s = graph.gate(f"{name}.gate", s, gate)
    return graph.node("Mul", f"{name}.scale", [s, x])
