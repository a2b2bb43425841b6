"""A network of one block, whose channels can be chosen: it is built and counted in seconds."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10


def block(
    *, stem: int = 16, expand: int = 32, hidden: int = 24, kernel: int = 3, seed: int = 0
) -> onnx.ModelProto:
    """Return stem, expansion, depthwise, projection, sum, mean and two dense layers, 1x3x32x32."""
    random = np.random.default_rng(seed)
    stored: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weights(name: str, *shape: int) -> list[str]:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        for part, numbers in (
            ("weight", scale * random.standard_normal(shape)),
            ("bias", 0.1 * random.standard_normal(shape[0])),
        ):
            array = numbers.astype(np.float32)
            stored.append(numpy_helper.from_array(array, f"{name}.{part}"))
        return [f"{name}.weight", f"{name}.bias"]

    def node(kind: str, name: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}.y"], name, **attributes))
        return f"{name}.y"

    def conv(name: str, x: str, shape: tuple[int, ...], *, relu: bool = True, **how: int) -> str:
        side, pad = shape[2], shape[2] // 2
        y = node(
            *("Conv", name, [x, *weights(name, *shape)]),
            kernel_shape=[side, side],
            pads=[pad] * 4,
            strides=[how.get("stride", 1)] * 2,
            group=how.get("group", 1),
        )
        return node("Relu", f"{name}.relu", [y]) if relu else y

    x = conv("stem", "x", (stem, 3, 3, 3), stride=2)
    y = conv("expand", x, (expand, stem, 1, 1))
    y = conv("depthwise", y, (expand, 1, kernel, kernel), group=expand)
    y = conv("project", y, (stem, expand, 1, 1), relu=False)
    y = node("Add", "sum", [x, y])
    y = node("Flatten", "flatten", [node("GlobalAveragePool", "pool", [y])])
    y = node("Gemm", "hidden", [y, *weights("hidden", hidden, stem)], transB=1)
    y = node("Relu", "hidden.relu", [y])
    y = node("Gemm", "classes", [y, *weights("classes", CLASSES, hidden)], transB=1)
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32]),
        helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, CLASSES]),
    ]
    graph = helper.make_graph(nodes, "block", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
