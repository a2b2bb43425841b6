"""What nodes of a graph compute, as the rules see them: None stands for something else."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mbv3c.lowering.plan import Array, Floats
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, RELU, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.lowering.select.graph import IMAGE_RANK, Graph

Doubles = NDArray[np.float64]

RENAMES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
ARITHMETIC = {"Add": "add", "Mul": "multiply"}
_ACTIVATIONS = ("Relu", "Clip", "HardSigmoid", "HardSwish")
_PLAIN_PRODUCT = {"alpha": 1.0, "beta": 1.0, "transA": 0}


@dataclass(frozen=True)
class ImageConvolution:
    """A convolution of an image by stored weights.

    Attributes:
        batch, inputs: numbers of images and of channels.
        axes: the windows down and across the image.
        groups: number of parts in which channels are convolved apart.
        weights: as in ONNX, [outputs, inputs / groups, R, S].
        bias: [outputs].
    """

    batch: int
    inputs: int
    axes: tuple[Axis, Axis]
    groups: int
    weights: Floats
    bias: Array

    @property
    def outputs(self) -> int:
        return len(self.weights)

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.inputs == self.outputs > 1

    @property
    def is_pointwise(self) -> bool:
        plain = tuple(Axis(axis.size, 1, 1, axis.dilation, 0, 0) for axis in self.axes)
        return self.groups == 1 and self.axes == plain


@dataclass(frozen=True)
class MatrixProduct:
    """A product of rows with stored weights: a 1x1 convolution or a fully connected layer.

    Attributes:
        rows: number of rows; every place of an image is a row.
        weights: [N, K].
        bias: [N].
        channels_last: whether the rows are the places of images.
    """

    rows: int
    weights: Floats
    bias: Array
    channels_last: bool


@dataclass(frozen=True)
class Branch:
    """A squeeze-and-excitation branch.

    Attributes:
        nodes: pool → 1x1 → activation → 1x1 → activation → Mul with what was pooled.
        w1, b1: weights [squeezed, channels] and bias of the first product.
        w2, b2: weights [gates, squeezed] and bias of the second product.
        reduce, gate: the activations after them.
    """

    nodes: list[onnx.NodeProto]
    w1: Floats
    b1: Array
    w2: Floats
    b2: Array
    reduce: Activation
    gate: Activation


def activation_of(node: onnx.NodeProto, graph: Graph) -> Activation | None:
    """Return what an activation with stored bounds computes."""
    match node.op_type:
        case "Relu":
            return RELU
        case "HardSwish":
            return HARD_SWISH
        case "HardSigmoid":
            alpha, beta = attribute_of(node, "alpha", 0.2), attribute_of(node, "beta", 0.5)
            return Activation(0.0, 1.0, scale=alpha, shift=beta)
        case "Clip":
            bounds = [name for name in node.input[1:] if name]
            if node.attribute or any(name not in graph.stored for name in bounds):
                return None  # before opset 11 the bounds were attributes
            low, high = (
                graph.stored[node.input[at]].item()
                if node.input[at : at + 1] not in ([], [""])
                else None
                for at in (1, 2)
            )
            if low is not None and high is not None:
                low = min(low, high)  # ONNX: where they are crossed, all values are `max`
            return Activation(low=low, high=high)
    return None


def with_activation(node: onnx.NodeProto, graph: Graph) -> tuple[list[onnx.NodeProto], Activation]:
    """Return a node, with its only user if that is an activation, and what that computes."""
    user = graph.float_follower(node.output[0])
    activation = activation_of(user, graph) if user is not None else None
    if user is None or activation is None:
        return [node], LINEAR
    return [node, user], activation


def convolution_of(node: onnx.NodeProto, graph: Graph) -> ImageConvolution | None:
    """Return a convolution of a computed image, in two dimensions, by stored fp32 weights."""
    if node.op_type != "Conv" or not _has_stored_weights(node, graph):
        return None
    weights, image = graph.stored[node.input[1]], graph.shape(node.input[0])
    axes = _axes_of(node, image, weights.shape)
    if axes is None or weights.dtype != np.float32:
        return None
    groups, bias = attribute_of(node, "group", 1), bias_of(node, graph, len(weights))
    return ImageConvolution(image[0], image[1], axes, groups, weights, bias)


def product_of(node: onnx.NodeProto, graph: Graph) -> MatrixProduct | None:
    """Return a 1x1 convolution, a Gemm or a MatMul by stored fp32 weights."""
    if node.op_type == "Conv":
        conv = convolution_of(node, graph)
        if conv is None or not conv.is_pointwise:
            return None
        rows = conv.batch * prod(axis.size for axis in conv.axes)
        return MatrixProduct(rows, conv.weights[:, :, 0, 0], conv.bias, channels_last=True)
    if node.op_type not in ("Gemm", "MatMul") or not graph.is_value(node.input[0]):
        return None
    weights = graph.stored.get(node.input[1])
    if weights is None or weights.ndim != 2 or weights.dtype != np.float32:
        return None
    if any(attribute_of(node, name, value) != value for name, value in _PLAIN_PRODUCT.items()):
        return None
    if graph.is_image(node.input[0]):
        return None
    if outputs_last(node):
        weights = weights.T
    if not all(_is_row(name, graph, len(weights)) for name in node.input[2:] if name):
        return None
    rows, bias = prod(graph.shape(node.input[0])[:-1]), bias_of(node, graph, len(weights))
    return MatrixProduct(rows, weights, bias, channels_last=False)


def affine_after(
    node: onnx.NodeProto, graph: Graph, channels: int
) -> tuple[list[onnx.NodeProto], Doubles, Doubles]:
    """Return the nodes behind a layer that scale and shift its channels, and by how much."""
    followers: list[onnx.NodeProto] = []
    scale, shift = np.ones(channels), np.zeros(channels)
    while (user := graph.float_follower([node, *followers][-1].output[0])) is not None:
        stored = [graph.stored[name] for name in user.input if name in graph.stored]
        if user.op_type == "BatchNormalization" and len(stored) == 4 and len(user.output) == 1:
            gain, offset, mean, variance = (values.astype(np.float64) for values in stored)
            factor = gain / np.sqrt(variance + attribute_of(user, "epsilon", 1e-5))
            scale, shift = scale * factor, (shift - mean) * factor + offset
        elif user.op_type in ("Add", "Mul") and len(stored) == 1:
            number = per_channel(stored[0], channels)
            if number is None:
                break
            added = user.op_type == "Add"
            scale, shift = (scale, shift + number) if added else (scale * number, shift * number)
        else:
            break
        followers.append(user)
    return followers, scale, shift


def ordered_operands(
    names: Sequence[str], result: str, graph: Graph
) -> tuple[Sequence[str], bool] | None:
    """Return the operands, first the one of the result's shape, and how the other broadcasts.

    That is: whether it has one number per channel of an image, rather than one per element.
    """
    if graph.shape(names[0]) != graph.shape(result):
        names = names[::-1]
    first, other = graph.shape(names[0]), graph.shape(names[-1])
    if first != graph.shape(result):
        return None
    if other == first:
        return names, False
    if len(first) == IMAGE_RANK and other == (*first[:2], 1, 1):
        return names, True
    return None


def branch_of(pool: onnx.NodeProto, graph: Graph) -> Branch | None:
    """Return the squeeze-and-excitation branch that begins with `pool`."""
    if pool.op_type != "GlobalAveragePool" or not graph.is_image(pool.input[0]):
        return None
    chain = [pool]
    for op_types in (("Conv",), _ACTIVATIONS, ("Conv",), _ACTIVATIONS, ("Mul",)):
        user = graph.float_follower(chain[-1].output[0])
        if user is None or user.op_type not in op_types:
            return None
        if user.op_type == "Conv" and not _is_plain_1x1(user, graph):
            return None
        chain.append(user)
    _, squeeze, squeezed, excite, excited, scale = chain
    if set(scale.input) != {pool.input[0], excited.output[0]}:
        return None
    reduce, gate = activation_of(squeezed, graph), activation_of(excited, graph)
    if reduce is None or gate is None:
        return None
    w1, w2 = (graph.stored[conv.input[1]][:, :, 0, 0] for conv in (squeeze, excite))
    b1, b2 = bias_of(squeeze, graph, len(w1)), bias_of(excite, graph, len(w2))
    return Branch(chain, w1, b1, w2, b2, reduce, gate)


def bias_of(node: onnx.NodeProto, graph: Graph, outputs: int) -> Array:
    """Return one stored number per output of a convolution or product; zeros without a bias."""
    if not any(node.input[2:3]):
        return np.zeros(outputs, np.float32)
    return np.broadcast_to(graph.stored[node.input[2]].reshape(-1), (outputs,))


def per_channel(values: Array, channels: int) -> Doubles | None:
    """Return a constant beside an image as one number per channel, if it is that."""
    if values.size == 1:
        return np.full(channels, values.item(), np.float64)
    if values.size != channels or values.shape[-3:] != (channels, 1, 1):
        return None
    return values.reshape(-1).astype(np.float64)


def outputs_last(node: onnx.NodeProto) -> bool:
    """Say whether the weights of a convolution or product have the outputs as last axis."""
    return node.op_type != "Conv" and not attribute_of(node, "transB", 0)


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or its default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _axes_of(
    node: onnx.NodeProto, image: Sequence[int], weights: Sequence[int]
) -> tuple[Axis, Axis] | None:
    """Return how the windows of a convolution lie on a two-dimensional image."""
    padding = attribute_of(node, "auto_pad", b"NOTSET")
    if len(image) != IMAGE_RANK or padding not in (b"NOTSET", b""):
        return None
    pads = attribute_of(node, "pads", [0, 0, 0, 0])
    strides = attribute_of(node, "strides", [1, 1])
    dilations = attribute_of(node, "dilations", [1, 1])
    down, right = (
        Axis(image[2 + i], weights[2 + i], strides[i], dilations[i], pads[i], pads[2 + i])
        for i in range(2)
    )
    return down, right


def _has_stored_weights(node: onnx.NodeProto, graph: Graph) -> bool:
    stored = (name in graph.stored for name in node.input[1:] if name)
    return graph.is_value(node.input[0]) and all(stored)


def _is_plain_1x1(node: onnx.NodeProto, graph: Graph) -> bool:
    if not _has_stored_weights(node, graph):
        return False
    weights = graph.stored[node.input[1]]
    return (
        weights.shape[2:] == (1, 1)
        and weights.dtype == np.float32
        and attribute_of(node, "group", 1) == 1
        and not any(attribute_of(node, "pads", [0]))
    )


def _is_row(name: str, graph: Graph, size: int) -> bool:
    """Say whether a stored bias adds equal numbers to every row of a product."""
    stored = graph.stored.get(name)
    return stored is not None and stored.shape in ((), (1,), (1, 1), (size,), (1, size))
