"""The graphs that `build` makes: valid, of the published size, named and described."""

import json

import onnx
import pytest
from onnx import helper

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import tensor_shapes
from mbv3c.graphs.networks import VARIANTS
from mbv3c.graphs.spec import BATCHNORM_EPSILON, ModelSpec
from mbv3c.graphs.writer import IR_VERSION, OPSET
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, session


@pytest.fixture(scope="module")
def other() -> onnx.ModelProto:
    """Return a model with nothing at its default but the seed."""
    return build_model(ModelSpec("small", resolution=96, classes=10, batch=2))


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_passes_the_full_check(network: onnx.ModelProto) -> None:
    onnx.checker.check_model(network, full_check=True)
    assert [(o.domain, o.version) for o in network.opset_import] == [("", OPSET)]
    assert network.ir_version == IR_VERSION


def test_input_and_output(network: onnx.ModelProto) -> None:
    (given,), (returned,) = network.graph.input, network.graph.output
    assert (given.name, shape(given)) == ("input", [1, 3, 224, 224])
    assert (returned.name, shape(returned)) == ("logits", [1, 1000])
    for value in (given, returned):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_resolution_classes_and_batch(other: onnx.ModelProto) -> None:
    onnx.checker.check_model(other, full_check=True)
    assert shape(other.graph.input[0]) == [2, 3, 96, 96]
    assert shape(other.graph.output[0]) == [2, 10]
    x = parity_inputs((2, 3, 96, 96))[0]
    assert run(session(other), x)[0].shape == (2, 10)


def test_images_of_a_batch_do_not_touch_each_other(other: onnx.ModelProto) -> None:
    opened = session(other)
    x = parity_inputs((2, 3, 96, 96))[0]
    both, swapped = run(opened, x)[0], run(opened, x[::-1].copy())[0]
    # The sums of a batch may be grouped otherwise; a few fp32 roundings.
    assert both == pytest.approx(swapped[::-1], abs=1e-4)
    assert both[0] != pytest.approx(both[1], abs=1e-2)


@pytest.mark.parametrize("resolution", [96, 224, 256])
def test_the_last_map_has_a_32nd_of_the_resolution(resolution: int) -> None:
    shapes = tensor_shapes(build_model(ModelSpec("small", resolution=resolution)))
    side = resolution // 32
    assert shapes["features.12.act.div.output"] == (1, 576, side, side)


def test_metadata(other: onnx.ModelProto) -> None:
    described = metadata(other)
    assert json.loads(described.pop("mbv3c.mean")) == [0.485, 0.456, 0.406]
    assert json.loads(described.pop("mbv3c.std")) == [0.229, 0.224, 0.225]
    assert json.loads(described.pop("mbv3c.class_axes")) == {"logits": 1}
    assert described == {
        "mbv3c.variant": "small",
        "mbv3c.head": "classify",
        "mbv3c.width": "1",
        "mbv3c.width_rule": "torchvision",
        "mbv3c.padding": "symmetric",
        "mbv3c.minimalistic": "false",
        "mbv3c.dilated": "false",
        "mbv3c.reduced_tail": "false",
        "mbv3c.bn_epsilon": "0.001",
        "mbv3c.resolution": "96",
        "mbv3c.seed": "0",
    }
    assert other.graph.name == "mobilenet_v3_small"
    assert other.producer_name == "mbv3c"


def test_names_of_nodes(large: onnx.ModelProto) -> None:
    nodes = {node.name: node.op_type for node in large.graph.node}
    assert len(nodes) == len(large.graph.node)  # each name once
    assert nodes["features.0.conv"] == "Conv"
    assert nodes["features.4.expand.bn"] == "BatchNormalization"
    assert nodes["features.4.se.reduce"] == "Conv"
    assert nodes["features.4.se.gate.clip"] == "Clip"
    assert nodes["features.5.residual"] == "Add"
    assert nodes["features.16.conv"] == "Conv"
    assert nodes["classifier.3"] == "Gemm"
    assert "features.1.expand.conv" not in nodes  # 16 channels in, 16 expanded


def test_names_of_tensors(large: onnx.ModelProto) -> None:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in large.graph.initializer}
    assert shapes["features.4.depthwise.conv.weight"] == (72, 1, 5, 5)
    assert shapes["features.4.se.reduce.weight"] == (24, 72, 1, 1)
    assert shapes["features.4.se.expand.bias"] == (72,)
    assert shapes["features.4.project.bn.running_var"] == (40,)
    assert shapes["classifier.3.weight"] == (1000, 1280)


def test_convolutions_are_followed_by_batchnorm_except_in_se(network: onnx.ModelProto) -> None:
    consumers = {name: node for node in network.graph.node for name in node.input}
    for conv in (node for node in network.graph.node if node.op_type == "Conv"):
        in_se = ".se." in conv.name
        assert len(conv.input) == (3 if in_se else 2)
        follower = consumers[conv.output[0]]
        assert (follower.op_type == "BatchNormalization") == (not in_se)
        if not in_se:
            assert attributes(follower)["epsilon"] == pytest.approx(BATCHNORM_EPSILON)


def test_kernels_strides_and_padding(network: onnx.ModelProto) -> None:
    nodes = {node.name: attributes(node) for node in network.graph.node}
    architecture = VARIANTS[network.graph.name.removeprefix("mobilenet_v3_")]
    for index, block in enumerate(architecture.blocks, start=1):
        found = nodes[f"features.{index}.depthwise.conv"]
        assert found["kernel_shape"] == [block.kernel] * 2
        assert found["strides"] == [block.stride] * 2
        assert found["pads"] == [block.kernel // 2] * 4
        assert found["group"] == block.expand


def test_residual_where_shape_stays(network: onnx.ModelProto) -> None:
    architecture = VARIANTS[network.graph.name.removeprefix("mobilenet_v3_")]
    channels, wanted = architecture.stem, []
    for index, block in enumerate(architecture.blocks, start=1):
        if block.stride == 1 and block.out == channels:
            wanted.append(f"features.{index}.residual")
        channels = block.out
    found = [node.name for node in network.graph.node if node.name.endswith(".residual")]
    assert found == wanted
    assert len(found) == {"large": 10, "small": 6}[network.graph.name.rpartition("_")[2]]


def test_squeeze_and_excite_stands_after_the_activation(small: onnx.ModelProto) -> None:
    nodes = {node.name: node for node in small.graph.node}
    assert nodes["features.1.se.pool"].input[0] == nodes["features.1.depthwise.act"].output[0]
    assert nodes["features.4.se.pool"].input[0] == nodes["features.4.depthwise.act.div"].output[0]
    assert nodes["features.4.project.conv"].input[0] == nodes["features.4.se.scale"].output[0]
