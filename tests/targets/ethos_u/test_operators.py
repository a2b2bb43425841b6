"""Networks of operators that MobileNetV3 does not have, on an NPU whole and verified."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.graphs.load import static_shape
from mbv3c.parity.reference import inputs_of
from mbv3c.targets import open_bundle
from mbv3c.targets.ethos_u.runner import StreamRunner
from tests.foreign_models import Net
from tests.targets.ethos_u.test_networks import check


def halved(net: Net, x: str) -> str:
    return net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


def enlarged(net: Net, x: str, down: int, across: int) -> str:
    """Repeat pixels, as torch writes nearest interpolation."""
    return net.add(
        "Resize",
        *(x, "", net.constant([1, 1, down, across])),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def u_net() -> onnx.ModelProto:
    """Return a U-Net whose smallest map sees the mean of all of it, from one pixel."""
    net = Net()
    a = net.add("Relu", net.conv("x", (3, 16), kernel=3))
    b = net.add("HardSwish", net.conv(halved(net, a), (16, 24), kernel=3))
    c = net.add("Relu", net.conv(halved(net, b), (24, 32), kernel=3))
    pooled = net.conv(net.add("GlobalAveragePool", c), (32, 8))
    pooled = net.add("Resize", pooled, "", net.constant([1, 1, 8, 8]), mode="linear")
    c = net.add("Concat", net.add("Clip", c, net.constant(0.1)), pooled, axis=1)
    c = net.conv(c, (40, 32))
    d = net.add("Concat", enlarged(net, c, 2, 2), b, axis=1)
    d = net.add("Relu", net.conv(d, (56, 24), kernel=3))
    e = net.add("Concat", enlarged(net, d, 2, 2), a, axis=1)
    return net.model(net.conv(net.add("Relu", net.conv(e, (40, 16), kernel=3)), (16, 4)))


def pyramid() -> onnx.ModelProto:
    net = Net()
    a = net.add("Relu", net.conv("x", (3, 16), kernel=3, stride=2))
    b = net.add("HardSwish", net.conv(a, (16, 24), kernel=3, stride=2))
    c = net.add("Relu", net.conv(b, (24, 32), kernel=3, stride=2))
    low = net.conv(c, (32, 16))
    middle = net.add("Add", net.conv(b, (24, 16)), enlarged(net, low, 2, 2))
    high = net.add("Add", net.conv(a, (16, 16)), enlarged(net, middle, 2, 2))
    return net.model(*(net.conv(level, (16, 8), kernel=3) for level in (high, middle, low)))


def spatial_pyramid_pooling() -> onnx.ModelProto:
    net = Net()
    x = net.trunk()
    pooled = [
        net.add("MaxPool", x, kernel_shape=[taps, taps], pads=[taps // 2] * 4) for taps in (3, 5)
    ]
    x = net.conv(net.add("Concat", x, *pooled, axis=1), (96, 32))
    x = enlarged(net, x, 4, 3)
    x = net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    return net.model(net.head(x))


def row() -> onnx.ModelProto:
    """Return a network for sensors: convolutions of one dimension, and two outputs."""
    net = Net(inputs={"x": (onnx.TensorProto.FLOAT, (1, 6, 128))})

    def weights(*shape: int) -> str:
        return net.constant(net.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))

    x = net.add("Conv", "x", weights(16, 6, 5), weights(16), pads=[2, 2], strides=[2])
    x = net.add("Conv", net.add("Relu", x), weights(16, 1, 3), pads=[1, 1], group=16)
    x = net.add("MaxPool", net.add("HardSwish", x), kernel_shape=[2], strides=[2])
    x = net.add("Add", x, net.add("Conv", x, weights(16, 16, 1)))
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.model(net.add("Gemm", flat, weights(5, 16), transB=1), x)


def channels_last() -> onnx.ModelProto:
    """Return a network as TensorFlow has it, with ImageNet's means in it."""
    net = Net(inputs={"x": (onnx.TensorProto.FLOAT, (1, 24, 32, 3))})
    moved = net.add("Sub", "x", net.constant(np.array([[[[0.485, 0.456, 0.406]]]])))
    return net.model(net.head(net.trunk(net.add("Transpose", moved, perm=[0, 3, 1, 2]))))


def pixels() -> onnx.ModelProto:
    """Return a network for a camera's frames: uint8, N, H, W, C, normalised in the graph."""
    net = Net(inputs={"x": (onnx.TensorProto.UINT8, (1, 24, 32, 3))})
    real = net.add("Cast", "x", to=onnx.TensorProto.FLOAT)
    scaled = net.add("Div", net.add("Sub", real, net.constant(127.5)), net.constant(58.0))
    return net.model(net.head(net.trunk(net.add("Transpose", scaled, perm=[0, 3, 1, 2]))))


def moves() -> onnx.ModelProto:
    """Return a network of groups, shuffled channels, slopes and operators that move elements."""
    net = Net()

    def integers(*values: int) -> str:
        return net.constant(values, np.int64)

    x = net.conv(net.conv("x", (3, 32), kernel=3, stride=2), (32, 32), kernel=3, group=4)
    x = net.add("Reshape", x, integers(1, 4, 8, 16, 16))
    x = net.add("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.add("Reshape", x, integers(1, 32, 16, 16))
    x = net.add("PRelu", x, net.constant(net.random.uniform(-0.3, 0.6, (32, 1, 1))))
    parts = [f"{x}.{half}" for half in (0, 1)]
    split = onnx.helper.make_node("Split", [x, integers(12, 20)], parts, f"{x}.split", axis=1)
    net.nodes.append(split)
    x = net.add("Concat", parts[1], net.add("Sigmoid", parts[0]), axis=1)
    gate = net.add("Sigmoid", net.reduce("ReduceMax", x, 1))
    x = net.add("Mul", x, gate)
    x = net.add("DepthToSpace", x, blocksize=2, mode="CRD")
    x = net.add("Pad", x, integers(0, 0, 2, 0, 0, 0, 0, 3))
    x = net.add("Slice", x, integers(1, 30), integers(34, 0), integers(2, 3), integers(3, -1))
    statistics = [net.constant(net.random.uniform(0.5, 1.5, 8)) for _ in range(4)]
    x = net.add("BatchNormalization", net.add("HardSwish", x), *statistics)
    x = net.add("Pad", x, integers(0, 0, 1, 1, 0, 0, 0, 1), mode="reflect")
    rows = net.reduce("ReduceMean", x, 3)
    x = net.conv(net.add("Tile", rows, integers(1, 1, 1, 3)), (8, 16))
    weights = net.constant(net.random.normal(0, 0.05, (10, 16 * 12 * 3)))
    return net.model(net.add("Gemm", net.add("Flatten", x), weights, transB=1))


NETWORKS = {
    "pixels of uint8": pixels,
    "groups, slopes and moves": moves,
    "channels last": channels_last,
    "row": row,
    "U-Net": u_net,
    "feature pyramid": pyramid,
    "spatial pyramid pooling": spatial_pyramid_pooling,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_on_the_npu_whole(name: str, tmp_path: Path):
    build: Callable[[], onnx.ModelProto] = NETWORKS[name]
    model, path = build(), tmp_path / "bundle"
    check(model, "npu:ethos-u55-64", path)
    outputs = StreamRunner(open_bundle(path)).run(path, inputs_of(model)[:1])[0]
    declared = [static_shape(output) for output in model.graph.output]
    assert [output.shape for output in outputs] == declared
