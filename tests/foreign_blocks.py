"""Operators that foreign networks have in the middle, each as a block of 32 channels in and out.

A block takes a `Net` and a map of 1x32x8x8 and returns what the head can read: 32 channels.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from tests.foreign_models import Net

Block = Callable[[Net, str], str]


def call(op_type: str, *operands: object, **attributes: object) -> Block:
    """Return a block of one operator; operands beside the map are constants."""

    def block(net: Net, x: str) -> str:
        return net.add(op_type, x, *(net.constant(value) for value in operands), **attributes)

    return block


def integers(op_type: str, *operands: object, **attributes: object) -> Block:
    """Return a block whose other operands are integers, such as shapes."""

    def block(net: Net, x: str) -> str:
        constants = (net.constant(value, np.int64) for value in operands)
        return net.add(op_type, x, *constants, **attributes)

    return block


def then_conv(block: Block, channels: int) -> Block:
    """Return a block that ends in 32 channels again."""
    return lambda net, x: net.conv(block(net, x), (channels, 32))


_RANDOM = np.random.default_rng(1)


def weights(*shape: int) -> np.ndarray:
    return _RANDOM.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)


def positive(*shape: int) -> np.ndarray:
    return _RANDOM.uniform(0.2, 1, shape)


def transposed_conv(shape: tuple[int, ...], **attributes: object) -> Block:
    return call("ConvTranspose", weights(*shape), **attributes)


def halves(net: Net, x: str) -> str:
    parts = [f"{x}.first", f"{x}.second"]
    sizes = net.constant([16, 16], np.int64)
    net.nodes.append(helper.make_node("Split", [x, sizes], parts, f"{x}.split", axis=1))
    return net.add("Concat", parts[1], net.add("Sigmoid", parts[0]), axis=1)


def layer_norm(net: Net, x: str) -> str:
    last = net.add("Transpose", x, perm=[0, 2, 3, 1])
    operands = (net.constant(positive(32)), net.constant(weights(32)))
    return net.add("Transpose", net.add("LayerNormalization", last, *operands), perm=[0, 3, 1, 2])


def spatial_attention(net: Net, x: str) -> str:
    """CBAM's second half."""
    both = [net.reduce(f"Reduce{name}", x, 1) for name in ("Mean", "Max")]
    gate = net.add("Sigmoid", net.conv(net.add("Concat", *both, axis=1), (2, 1), kernel=7))
    return net.add("Mul", x, gate)


def coordinate_attention(net: Net, x: str) -> str:
    rows = net.reduce("ReduceMean", x, 3)
    columns = net.reduce("ReduceMean", x, 2)
    columns = net.add("Transpose", columns, perm=[0, 1, 3, 2])
    y = net.add("HardSwish", net.conv(net.add("Concat", rows, columns, axis=2), (32, 8)))
    parts = [f"{y}.rows", f"{y}.columns"]
    sizes = net.constant([8, 8], np.int64)
    net.nodes.append(helper.make_node("Split", [y, sizes], parts, f"{y}.split", axis=2))
    turned = net.add("Transpose", parts[1], perm=[0, 1, 3, 2])
    for part in (parts[0], turned):
        x = net.add("Mul", x, net.add("Sigmoid", net.conv(part, (8, 32))))
    return x


def self_attention(net: Net, x: str) -> str:
    tokens = net.add("Reshape", x, net.constant([1, 32, 64], np.int64))
    tokens = net.add("Transpose", tokens, perm=[0, 2, 1])
    query, key = (net.add("MatMul", tokens, net.constant(weights(32, 32))) for _ in range(2))
    scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), tokens)
    back = net.add("Transpose", mixed, perm=[0, 2, 1])
    return net.add("Reshape", back, net.constant([1, 32, 8, 8], np.int64))


def one_dimension(net: Net, x: str) -> str:
    flat = net.add("Reshape", x, net.constant([1, 32, 64], np.int64))
    y = net.add("Conv", flat, net.constant(weights(32, 32, 3)), pads=[1, 1])
    return net.add("Reshape", y, net.constant([1, 32, 8, 8], np.int64))


def recurrent(op_type: str, gates: int) -> Block:
    def block(net: Net, x: str) -> str:
        steps = net.add("Reshape", x, net.constant([1, 32, 64], np.int64))
        steps = net.add("Transpose", steps, perm=[2, 0, 1])
        operands = (weights(1, gates * 16, 32), weights(1, gates * 16, 16))
        made = net.add(op_type, steps, *map(net.constant, operands), hidden_size=16)
        flat = net.add("Squeeze", made, net.constant([1], np.int64))
        turned = net.add("Transpose", flat, perm=[1, 2, 0])
        map_ = net.add("Reshape", turned, net.constant([1, 16, 8, 8], np.int64))
        return net.conv(map_, (16, 32))

    return block


def columns_both_ways(net: Net, x: str) -> str:
    """A text recogniser's head: a bidirectional LSTM over the columns of a map."""
    columns = net.add(
        "Reshape", net.reduce("ReduceMean", x, 2), net.constant([1, 32, 8], np.int64)
    )
    steps = net.add("Transpose", columns, perm=[2, 0, 1])
    operands = (weights(2, 64, 32), weights(2, 64, 16), weights(2, 128))
    attributes = {"hidden_size": 16, "direction": "bidirectional"}
    made = net.add("LSTM", steps, *map(net.constant, operands), **attributes)
    turned = net.add("Transpose", made, perm=[2, 1, 3, 0])
    return net.add("Reshape", turned, net.constant([1, 32, 1, 8], np.int64))


def best_channels(net: Net, x: str) -> str:
    """Weigh every pixel by the sum of its three largest channels."""
    outputs = [f"{x}.best", f"{x}.places"]
    count = net.constant([3], np.int64)
    net.nodes.append(helper.make_node("TopK", [x, count], outputs, f"{x}.topk", axis=1))
    return net.add("Mul", x, net.reduce("ReduceMean", outputs[0], 1))


def normalised(net: Net, x: str) -> str:
    return net.add("Div", x, net.reduce("ReduceL2", x, 1))


def masked(net: Net, x: str) -> str:
    return net.add("Where", net.add("Greater", x, net.constant(0.5)), x, net.constant(0.1))


# The first opset that has it, and the block.
BLOCKS: dict[str, tuple[int, Block]] = {
    "AveragePool 3x3, padded": (
        13,
        call("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ),
    "AveragePool, padding counted": (
        13,
        call("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    ),
    "AveragePool, rounded up": (
        13,
        call("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    ),
    "AveragePool, odd window": (
        13,
        call("AveragePool", kernel_shape=[5, 3], strides=[3, 2], pads=[2, 1, 1, 0]),
    ),
    "MaxPool 3x3": (
        13,
        call("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ),
    "MaxPool, dilated": (13, call("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])),
    "ConvTranspose": (13, transposed_conv((32, 32, 2, 2), strides=[2, 2])),
    "ConvTranspose, depthwise": (
        13,
        transposed_conv((32, 1, 4, 4), strides=[2, 2], pads=[1] * 4, group=32),
    ),
    "ConvTranspose, output padding": (
        13,
        transposed_conv((32, 32, 3, 3), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
    ),
    "ConvTranspose, dilated": (13, transposed_conv((32, 32, 3, 3), dilations=[2, 2])),
    "Conv 1x5, lopsided": (13, call("Conv", weights(32, 32, 1, 5), pads=[0, 1, 0, 3])),
    "Conv, four groups": (13, call("Conv", weights(32, 8, 3, 3), pads=[1] * 4, group=4)),
    "Conv of one dimension": (13, one_dimension),
    "InstanceNormalization": (13, call("InstanceNormalization", positive(32), weights(32))),
    "GroupNormalization": (
        21,
        call("GroupNormalization", positive(32), weights(32), num_groups=4),
    ),
    "LayerNormalization": (17, layer_norm),
    "LpNormalization": (13, call("LpNormalization", axis=1, p=2)),
    "MeanVarianceNormalization": (13, call("MeanVarianceNormalization", axes=[1, 2, 3])),
    "division by ReduceL2": (13, normalised),
    "LRN": (13, call("LRN", size=5)),
    "Mish": (18, call("Mish")),
    "PRelu": (13, call("PRelu", positive(32, 1, 1))),
    "Elu": (13, call("Elu")),
    "Celu": (13, call("Celu", alpha=1.5)),
    "Selu": (13, call("Selu")),
    "Softplus": (13, call("Softplus")),
    "Gelu": (20, call("Gelu")),
    "LeakyRelu": (13, call("LeakyRelu", alpha=0.2)),
    "Pow": (13, call("Pow", 2.0)),
    "Where": (13, masked),
    "DepthToSpace": (13, then_conv(call("DepthToSpace", blocksize=2, mode="CRD"), 8)),
    "SpaceToDepth": (13, then_conv(call("SpaceToDepth", blocksize=2), 128)),
    "Split and Concat": (13, halves),
    "Slice": (13, then_conv(integers("Slice", [0, 1], [16, 9], [1, 2], [1, 2]), 16)),
    "Pad, reflected": (13, integers("Pad", [0, 0, 1, 1, 0, 0, 1, 1], mode="reflect")),
    "Pad, repeated edge": (13, integers("Pad", [0, 0, 1, 1, 0, 0, 1, 1], mode="edge")),
    "Expand": (13, integers("Expand", [1, 32, 8, 8])),
    "Tile": (13, integers("Tile", [1, 1, 2, 1])),
    "GridSample": (16, call("GridSample", _RANDOM.uniform(-1, 1, (1, 8, 8, 2)))),
    "Einsum": (13, call("Einsum", weights(32, 32), equation="nchw,cd->ndhw")),
    "spatial attention (CBAM)": (13, spatial_attention),
    "coordinate attention": (14, coordinate_attention),
    "self-attention": (13, self_attention),
    "LSTM": (14, recurrent("LSTM", 4)),
    "GRU": (14, recurrent("GRU", 3)),
    "RNN": (14, recurrent("RNN", 1)),
    "LSTM in both directions": (14, columns_both_ways),
    "TopK": (13, best_channels),
}


def with_block(name: str) -> onnx.ModelProto:
    """Return a network with a block between its trunk and its head."""
    opset, block = BLOCKS[name]
    net = Net(opset=opset)
    return net.model(net.head(block(net, net.trunk())))
