"""Which MobileNetV3 a graph is, and why another one is none."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.networks import VARIANTS
from mbv3c.graphs.recognition import Recognized, Unrecognized, recognize
from mbv3c.graphs.spec import ModelSpec
from mbv3c.passes import run_pipeline

WHOLE = {
    "mobilenet_v3_large": Recognized(
        network="mobilenet_v3",
        variant="large",
        width=1.0,
        width_rule=None,
        resolution=(224, 224),
        batch=1,
        head="classify",
        classes=1000,
        blocks=15,
        se_blocks=8,
        activations={"hardsigmoid": 8, "hardswish": 21, "relu": 19},
        minimalistic=False,
        dilated=False,
        reduced_tail=False,
    ),
    "mobilenet_v3_small": Recognized(
        network="mobilenet_v3",
        variant="small",
        width=1.0,
        width_rule=None,
        resolution=(224, 224),
        batch=1,
        head="classify",
        classes=1000,
        blocks=11,
        se_blocks=9,
        activations={"hardsigmoid": 9, "hardswish": 19, "relu": 14},
        minimalistic=False,
        dilated=False,
        reduced_tail=False,
    ),
}

KNOWN = "MobileNetV3-large 15, MobileNetV3-small 11, MobileNetV2 17, MnasNet-A1 16, MnasNet-B1 17"


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    return run_pipeline(model)[0]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take away every name but the ports' and all metadata."""
    model = copied(model)
    graph = model.graph
    del model.metadata_props[:], graph.value_info[:]
    graph.name = "main_graph"
    ports = {value.name for value in (*graph.input, *graph.output)}
    numbers = count()
    names: dict[str, str] = {}
    for node in graph.node:
        node.name = ""
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                if name and name not in ports:
                    side[index] = names.setdefault(name, f"t{next(numbers)}")
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, "")
    return model


def respelled(
    model: onnx.ModelProto,
    operator: str,
    spelling: Callable[[onnx.NodeProto], list[onnx.NodeProto]],
) -> onnx.ModelProto:
    """Put other nodes in the place of every node of an operator."""
    model = copied(model)
    nodes = [
        new
        for node in model.graph.node
        for new in (spelling(node) if node.op_type == operator else [node])
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def hardswish_as_product(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    (x,), (y,) = node.input, node.output
    gate = helper.make_node("HardSigmoid", [x], [f"{y}.gate"], alpha=1 / 6, beta=0.5)
    return [gate, helper.make_node("Mul", [x, f"{y}.gate"], [y])]


def test_the_networks(network: onnx.ModelProto) -> None:
    wanted = WHOLE[network.graph.name]
    assert recognize(network) == wanted
    assert recognize(optimized(network)) == wanted


def test_names_and_metadata_do_not_matter(small: onnx.ModelProto) -> None:
    assert recognize(anonymous(small)) == WHOLE["mobilenet_v3_small"]


def test_other_spellings(small: onnx.ModelProto) -> None:
    wanted = WHOLE["mobilenet_v3_small"]
    fused = optimized(small)
    assert recognize(respelled(fused, "HardSwish", hardswish_as_product)) == wanted

    def minimum_of_maximum(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        x, low, high = node.input
        inner = f"{node.output[0]}.max"
        return [
            helper.make_node("Max", [low, x], [inner]),
            helper.make_node("Min", [inner, high], node.output),
        ]

    def mean(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [helper.make_node("ReduceMean", node.input, node.output, axes=[2, 3], keepdims=1)]

    assert recognize(respelled(small, "Clip", minimum_of_maximum)) == wanted
    assert recognize(respelled(small, "GlobalAveragePool", mean)) == wanted


def test_channels_last_input(small: onnx.ModelProto) -> None:
    """As tf2onnx writes it: an NHWC input and a Transpose."""
    model = copied(small)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, 224, 224, 3), strict=True):
        dim.dim_value = size
    for node in model.graph.node:
        node.input[:] = ["nchw" if name == "input" else name for name in node.input]
    model.graph.node.insert(
        0, helper.make_node("Transpose", ["input"], ["nchw"], perm=[0, 3, 1, 2])
    )
    assert recognize(model) == WHOLE["mobilenet_v3_small"]


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("small", resolution=96, classes=10, batch=3),
        ModelSpec("large", resolution=256, classes=1),
        ModelSpec("large", 0.75, resolution=96),
        ModelSpec("large", 0.75, "tensorflow", resolution=96),
        ModelSpec("large", 1.25, reduced_tail=True, resolution=96),
        ModelSpec("small", 0.35, "tensorflow", padding="same", resolution=128),
        ModelSpec("small", 0.5, dilated=True, resolution=128),
        ModelSpec("small", minimalistic=True, reduced_tail=True, dilated=True, resolution=96),
        ModelSpec("large", 0.6, minimalistic=True, resolution=96),
    ],
    ids=str,
)
def test_every_option(spec: ModelSpec) -> None:
    model = build_model(spec)
    found = recognize(optimized(model))
    assert found == recognize(model)
    assert isinstance(found, Recognized)
    options = ("variant", "width", "minimalistic", "dilated", "reduced_tail", "classes", "batch")
    assert [getattr(found, name) for name in options] == [getattr(spec, name) for name in options]
    assert found.resolution == (spec.resolution, spec.resolution)
    assert found.width_rule in (None, spec.width_rule)
    assert found.head == "classify"
    assert bool(found.se_blocks) != spec.minimalistic
    assert set(found.activations) == (
        {"relu"} if spec.minimalistic else {"hardsigmoid", "hardswish", "relu"}
    )


def test_the_width_rule_where_it_matters() -> None:
    for rule in ("torchvision", "tensorflow"):
        found = recognize(build_model(ModelSpec("small", 0.75, rule, resolution=96)))
        assert isinstance(found, Recognized)
        assert found.width_rule == rule


def test_another_head_leaves_the_blocks(small: onnx.ModelProto) -> None:
    model = copied(small)
    pooled = next(node for node in model.graph.node if node.name == "pool")
    at = list(model.graph.node).index(pooled)
    del model.graph.node[at + 1 :]
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(pooled.output[0], TensorProto.FLOAT, [1, 576, 1, 1])
    )
    found = recognize(model)
    assert isinstance(found, Recognized)
    assert (found.variant, found.width, found.head, found.classes) == ("small", 1.0, None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kernel": 7}, "kernel of block 5 is 7, 5 in MobileNetV3-small"),
        ({"squeeze": 0}, "squeeze of block 5 is False, True in MobileNetV3-small"),
        ({"activation": "relu"}, "activation of block 5 is relu, hardswish in MobileNetV3-small"),
        ({"stride": 2}, "stride of block 5 is 2, 1 in MobileNetV3-small"),
        ({"dilation": 2}, "dilation of block 5 is 2, 1 in MobileNetV3-small"),
        ({"out": 56}, "gives MobileNetV3-small the channel counts of this model"),
        ({"expand": 480}, "gives MobileNetV3-small the channel counts of this model"),
    ],
    ids=str,
)
def test_one_other_block_is_refused(
    changes: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = VARIANTS["small"]
    blocks = list(table.blocks)
    blocks[4] = replace(blocks[4], **changes)
    with monkeypatch.context() as patched:
        patched.setitem(VARIANTS, "small", replace(table, blocks=tuple(blocks)))
        model = build_model(ModelSpec("small", resolution=96, classes=10))
    if "dilation" in changes:  # the builder takes it from `dilated` alone
        node = next(n for n in model.graph.node if n.name == "features.5.depthwise.conv")
        for attribute in node.attribute:
            if attribute.name == "dilations":
                attribute.ints[:] = [2, 2]
            if attribute.name == "pads":
                attribute.ints[:] = [4, 4, 4, 4]
    found = recognize(model)
    assert isinstance(found, Unrecognized)
    assert reason in found.reason


def test_another_number_of_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = VARIANTS["small"]
    with monkeypatch.context() as patched:
        patched.setitem(VARIANTS, "small", replace(table, blocks=table.blocks[:-1]))
        model = build_model(ModelSpec("small", resolution=96, classes=10))
    assert recognize(model) == Unrecognized(f"it has 10 inverted residual blocks; {KNOWN}")


def test_another_gate_is_refused(small: onnx.ModelProto) -> None:
    """(x + 1) / 2, clipped to 0..1, is what one widely copied article calls hard-sigmoid."""
    near = copied(small)
    for tensor in near.graph.initializer:
        if tensor.name == "hardswish.three":
            tensor.CopyFrom(numpy_helper.from_array(np.array(1, np.float32), tensor.name))
    found = recognize(near)
    assert isinstance(found, Unrecognized)
    assert "has relu and unknown, relu and hardsigmoid in MobileNetV3" in found.reason

    def sigmoid(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [helper.make_node("Sigmoid", node.input[:1], node.output)]

    found = recognize(respelled(optimized(small), "Clip", sigmoid))
    assert isinstance(found, Unrecognized)
    assert found.reason == "the gates are sigmoid, hardsigmoid in MobileNetV3-small"


def test_a_missing_residual_is_refused(small: onnx.ModelProto) -> None:
    model = copied(small)
    (add,) = (node for node in model.graph.node if node.name == "features.3.residual")
    add.op_type = "Identity"
    del add.input[0]
    assert recognize(model) == Unrecognized("block 3 lacks the residual sum")


def test_an_activation_after_the_projection_is_refused(small: onnx.ModelProto) -> None:
    model = copied(small)
    (norm,) = (node for node in model.graph.node if node.name == "features.2.project.bn")
    at = list(model.graph.node).index(norm)
    after = norm.output[0]
    norm.output[0] = "before"
    model.graph.node.insert(at + 1, helper.make_node("Relu", ["before"], [after]))
    found = recognize(model)
    assert found == Unrecognized("block 2 has an activation after its projection or its branch")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Conv <strides = [2, 2]> (x, w3) y = Relu(a)", "it has no depthwise convolution"),
        ("y = Relu(x)", "it has no depthwise convolution"),
        (
            "a = Conv <group = 3> (x, dw) y = Relu(a)",
            "it does not begin with a 3x3 convolution of stride 2",
        ),
        (
            "a = Conv <group = 3> (x, dw) b = MaxPool <kernel_shape = [3, 3]> (x) y = Add(a, b)",
            "one step reads the input in MobileNetV3, here 'a', 'b'",
        ),
        (
            "a = Conv <strides = [2, 2]> (x, w3) b = Conv <group = 8> (a, dw8) y = Relu(b)",
            "block 1 ends with its depthwise convolution",
        ),
        (
            "a = Conv <strides = [2, 2]> (x, w3) b = Relu(a) c = Conv <group = 8> (b, dw8) "
            "d = Relu(c) e = Conv(d, pw) y = Relu(e)",
            f"it has 1 inverted residual blocks; {KNOWN}",
        ),
    ],
)
def test_small_networks_of_another_kind_are_refused(body: str, reason: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,32,32] x) => (float[n,c,h,w] y) {{ {body} }}
    """)
    shapes = {"w3": (8, 3, 3, 3), "dw": (3, 1, 3, 3), "dw8": (8, 1, 3, 3), "pw": (16, 8, 1, 1)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    assert recognize(model) == Unrecognized(reason)


def test_what_is_no_image_is_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y)'
        "{ y = Relu(x) }"
    )
    found = recognize(model)
    assert isinstance(found, Unrecognized)
    assert "4 dimensions" in found.reason


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize(
    ("head", "resolution", "classes"),
    [("lraspp", 96, 5), ("ssdlite", 320, 4), ("ssdlite", 320, 7)],
)
def test_other_heads(head: str, resolution: int, classes: int, rewritten: bool) -> None:
    spec = ModelSpec("small", head=head, resolution=resolution, classes=classes)
    model = build_model(spec)
    found = recognize(optimized(model) if rewritten else model)
    assert isinstance(found, Recognized)
    assert (found.variant, found.width, found.head) == ("small", 1.0, head)
    assert found.classes == classes
    assert found.reduced_tail == (head == "ssdlite")
    assert found.dilated == (head == "lraspp")
    assert f"{head}, {classes} classes" in found.sentence
