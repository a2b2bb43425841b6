"""Small models whose inputs and outputs are not one fp32 image and fp32 scores."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.foreign_models import SIDE, Net, with_outputs

FRAME = {"x": (TensorProto.UINT8, (1, SIDE, SIDE, 3))}
FLOAT, IMAGE = TensorProto.FLOAT, (1, 3, SIDE, SIDE)


def normalised(net: Net, x: str = "x") -> str:
    """Return pixels from 0 to 255, of any type, as numbers around 0."""
    real = net.add("Cast", x, to=FLOAT)
    return net.add("Div", net.add("Sub", real, net.constant(127.5)), net.constant(58.0))


def uint8_frames() -> onnx.ModelProto:
    net = Net(inputs=FRAME)
    x = net.add("Transpose", normalised(net), perm=[0, 3, 1, 2])
    return net.model(net.head(net.trunk(x)))


def uint8_planes() -> onnx.ModelProto:
    net = Net(inputs={"x": (TensorProto.UINT8, IMAGE)})
    return net.model(net.head(net.trunk(normalised(net))))


def int8_planes() -> onnx.ModelProto:
    net = Net(inputs={"x": (TensorProto.INT8, IMAGE)})
    x = net.add("Mul", net.add("Cast", "x", to=FLOAT), net.constant(1 / 58))
    return net.model(net.head(net.trunk(x)))


def cast_ends(kind: int) -> onnx.ModelProto:
    """Return a network in fp32 between ends of another type."""
    net = Net(inputs={"x": (kind, IMAGE)})
    y = net.head(net.trunk(net.add("Cast", "x", to=FLOAT)))
    return net.model(net.add("Cast", y, to=kind))


def half_everywhere() -> onnx.ModelProto:
    net = Net()
    model = net.model(net.head(net.trunk(swish="HardSwish")))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return with_outputs(model)


def image_and_vector() -> onnx.ModelProto:
    net = Net(inputs={"image": (FLOAT, IMAGE), "vector": (FLOAT, (1, 8))})
    seen = net.head(net.trunk("image"), 16)
    known = net.add(
        "Relu", net.add("MatMul", "vector", net.constant(net.random.normal(0, 0.4, (8, 16))))
    )
    joined = net.add("Concat", seen, known, axis=1)
    weights = net.random.normal(0, 0.3, (32, 5))
    return net.model(net.add("MatMul", joined, net.constant(weights)))


def two_images() -> onnx.ModelProto:
    net = Net(inputs={"left": (FLOAT, IMAGE), "right": (FLOAT, IMAGE)})
    apart = net.add("Abs", net.add("Sub", net.trunk("left"), net.trunk("right")))
    return net.model(net.head(apart))


def recurrent_state() -> onnx.ModelProto:
    side = SIDE // 4
    net = Net(inputs={"frame": (FLOAT, IMAGE), "state": (FLOAT, (1, 32, side, side))})
    joined = net.add("Concat", net.trunk("frame"), "state", axis=1)
    gate = net.add("Sigmoid", net.conv(joined, (64, 32), kernel=3))
    new = net.add("Tanh", net.conv(joined, (64, 32), kernel=3))
    kept = net.add("Mul", net.add("Sub", net.constant(1.0), gate), "state")
    state = net.add("Add", kept, net.add("Mul", gate, new), out="next_state")
    return net.model(net.head(state, out="scores"), state)


def words_and_image() -> onnx.ModelProto:
    net = Net(inputs={"words": (TensorProto.INT64, (1, 6)), "image": (FLOAT, IMAGE)})
    table = net.constant(net.random.normal(0, 1, (20, 32)))
    means = net.reduce("ReduceMean", net.add("Gather", table, "words"), 1)
    column = net.add("Reshape", means, net.constant([1, 32, 1, 1], np.int64))
    return net.model(net.head(net.add("Mul", net.trunk("image"), column)))


def masked_image() -> onnx.ModelProto:
    net = Net(inputs={"image": (FLOAT, IMAGE), "mask": (TensorProto.BOOL, (1, 1, SIDE, SIDE))})
    return net.model(net.head(net.trunk(net.add("Where", "mask", "image", net.constant(0.0)))))


def plane_without_batch() -> onnx.ModelProto:
    net = Net(inputs={"x": (FLOAT, IMAGE[1:])})
    return net.model(net.head(net.trunk(net.add("Unsqueeze", "x", net.constant([0], np.int64)))))


def four_images() -> onnx.ModelProto:
    net = Net(inputs={"x": (FLOAT, (4, *IMAGE[1:]))})
    return net.model(net.head(net.trunk()))


def label() -> onnx.ModelProto:
    net = Net()
    return net.model(net.add("ArgMax", net.head(net.trunk()), axis=1, keepdims=0))


def label_map() -> onnx.ModelProto:
    net = Net(opset=13)
    scores = net.conv(net.trunk(), (32, 6))
    large = net.add(
        "Resize",
        *(scores, "", net.constant([1, 1, 4, 4])),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    best = net.add("ArgMax", large, axis=1, keepdims=0)
    return net.model(net.add("Cast", best, to=TensorProto.INT32))


def label_map_of_floats() -> onnx.ModelProto:
    net = Net()
    best = net.add("ArgMax", net.conv(net.trunk(), (32, 6)), axis=1)
    return net.model(net.add("Cast", best, to=FLOAT))


def mask() -> onnx.ModelProto:
    net = Net()
    return net.model(net.add("Greater", net.conv(net.trunk(), (32, 1)), net.constant(0.3)))


def picture() -> onnx.ModelProto:
    net = Net()
    grey = net.add("Mul", net.add("Sigmoid", net.conv(net.trunk(), (32, 3))), net.constant(255.0))
    return net.model(net.add("Cast", net.add("Round", grey), to=TensorProto.UINT8))


def best_five() -> onnx.ModelProto:
    net = Net()
    scores = net.add("Softmax", net.head(net.trunk()))
    node = helper.make_node("TopK", [scores, net.constant([5], np.int64)], ["values", "classes"])
    net.nodes.append(node)
    return net.model("values", "classes")


def scores_and_label() -> onnx.ModelProto:
    net = Net()
    scores = net.head(net.trunk(), out="scores")
    return net.model(scores, net.add("ArgMax", scores, axis=1, out="label"))


INPUTS: dict[str, Callable[[], onnx.ModelProto]] = {
    "frames of uint8, NHWC": uint8_frames,
    "frames of uint8, NCHW": uint8_planes,
    "frames of int8": int8_planes,
    "fp16 in and out, fp32 between": lambda: cast_ends(TensorProto.FLOAT16),
    "fp64 in and out, fp32 between": lambda: cast_ends(TensorProto.DOUBLE),
    "fp16 everywhere": half_everywhere,
    "an image and a vector": image_and_vector,
    "two images": two_images,
    "a frame and a state that comes back": recurrent_state,
    "words (int64) and an image": words_and_image,
    "an image and a mask of bool": masked_image,
    "an image without a batch": plane_without_batch,
    "four images at a time": four_images,
}
OUTPUTS: dict[str, Callable[[], onnx.ModelProto]] = {
    "a label (ArgMax, int64)": label,
    "a map of labels (int32)": label_map,
    "a map of labels, as floats": label_map_of_floats,
    "a mask of bool": mask,
    "a picture of uint8": picture,
    "the best five (TopK), values and classes": best_five,
    "scores and their label": scores_and_label,
}
