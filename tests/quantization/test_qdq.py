"""What stands in a quantized graph: pairs, types, axes, names."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from mbv3c.parity.reference import run, session
from mbv3c.quantization.layers import float_tensors, layers
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.qdq import in_quantizable_opset, insert_qdq, quantized_tensors
from mbv3c.quantization.ranges import Range, known_ranges, observe
from tests.quantization import quantizing

INT8, INT16 = QuantizeOptions(), QuantizeOptions(activations="int16")


def quantized(
    model: onnx.ModelProto, options: QuantizeOptions = INT8, *names: str
) -> onnx.ModelProto:
    """Quantize all layers, or those named, on three inputs."""
    model = in_quantizable_opset(model, options)
    inputs = [quantizing.random(1, 3, 16, 16, seed=seed) for seed in range(3)]
    ranges = known_ranges(
        model, observe(model, lambda: iter(inputs), spread=False).ranges(options)
    )
    parts = [part for part in layers(model) if not names or part.name in names]
    result = insert_qdq(model, ranges, parts, options)
    onnx.checker.check_model(result, full_check=True)
    return result


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def fed_by(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto | None]:
    """Return what computes the inputs of a node."""
    makers = {output: node for node in model.graph.node for output in node.output}
    (node,) = (node for node in model.graph.node if node.name == name)
    return [makers.get(input_) for input_ in node.input]


@pytest.mark.parametrize("options", [INT8, INT16], ids=["int8", "int16"])
def test_nodes_tensors_and_outputs_keep_their_names(options: QuantizeOptions) -> None:
    given = quantizing.block()
    found = quantized(given, options)
    assert {node.name for node in given.graph.node} <= {node.name for node in found.graph.node}
    made = {name for node in found.graph.node for name in node.output}
    assert set(float_tensors(given)) - {"x"} <= made
    assert [value.name for value in found.graph.input] == ["x"]
    assert [value.name for value in found.graph.output] == ["logits"]
    assert len({node.name for node in found.graph.node}) == len(found.graph.node)


def test_every_tensor_has_one_pair_and_clamps_follow_weights_directly() -> None:
    found = quantized(quantizing.block())
    pairs = Counter(n.input[0] for n in found.graph.node if n.op_type == "QuantizeLinear")
    assert set(pairs.values()) == {1}
    assert set(quantized_tensors(found)) == set("xsapfrgmjtl") | {"logits"}
    assert [node.name for node in fed_by(found, "squeeze_act")] == ["squeeze"]
    assert fed_by(found, "gate")[0].name == "excite"
    assert fed_by(found, "stem_act")[0].op_type == "DequantizeLinear"


@pytest.mark.parametrize(
    ("options", "type_", "opset"),
    [(INT8, TensorProto.INT8, 17), (INT16, TensorProto.INT16, 21)],
    ids=["int8", "int16"],
)
def test_types_and_opset(options: QuantizeOptions, type_: int, opset: int) -> None:
    found = quantized(quantizing.block(), options)
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", opset)]
    zeros = {
        tensor.data_type
        for tensor in found.graph.initializer
        for node in found.graph.node
        if node.op_type == "QuantizeLinear" and node.input[2] == tensor.name
    }
    assert zeros == {type_}


def test_weights_are_symmetric_int8_per_output_channel_and_biases_int32() -> None:
    found, given = quantized(quantizing.block()), quantizing.block()
    stored, floats = constants(found), constants(given)
    for name, weights in (("stem", "w_stem"), ("project", "w_project"), ("head", "w_head")):
        _, dequantize, *bias = fed_by(found, name)
        integers, scale, zero = (stored[input_] for input_ in dequantize.input)
        axis = next(a.i for a in dequantize.attribute if a.name == "axis")
        assert (integers.dtype, axis) == (np.int8, 0)
        assert not zero.any()
        largest = np.abs(floats[weights].reshape(len(floats[weights]), -1)).max(axis=1)
        assert scale == pytest.approx(largest / 127, rel=0.01)
        for one in bias:
            assert stored[one.input[0]].dtype == np.int32


def test_a_gate_has_the_step_of_one_255th_and_the_lowest_zero_point() -> None:
    gate = quantized_tensors(quantized(quantizing.block()))["g"]
    assert gate.scale == np.float32(1 / 255)
    assert gate.zero_point == np.int8(-128)
    assert gate.bounds == pytest.approx((0.0, 1.0))


def test_a_round_trip_in_numpy_is_onnxruntimes() -> None:
    found = quantized(quantizing.block())
    x = quantizing.random(1, 3, 16, 16, seed=9)
    tensor = quantized_tensors(found)["x"]
    found.graph.output.append(onnx.ValueInfoProto(name=tensor.dequantized))
    assert (run(session(found), x)[-1] == tensor.apply(x)).all()


def test_layers_that_are_left_out_stay_float() -> None:
    found = quantized(quantizing.block(), INT8, "project")
    assert set(quantized_tensors(found)) == {"m", "j"}
    assert fed_by(found, "stem") == [None, None, None]
    assert fed_by(found, "project")[1].op_type == "DequantizeLinear"


def test_no_layers_is_the_float_graph() -> None:
    model = quantizing.block()
    same = insert_qdq(model, {}, [], INT8)
    assert [node.op_type for node in same.graph.node] == [n.op_type for n in model.graph.node]


def test_metadata_stay_and_none_are_added() -> None:
    model = quantizing.block()
    model.metadata_props.add(key="mbv3c.class_axes", value='{"logits": 1}')
    found = quantized(model)
    assert [(e.key, e.value) for e in found.metadata_props] == [
        ("mbv3c.class_axes", '{"logits": 1}')
    ]


def test_the_same_model_gives_the_same_bytes() -> None:
    first, again = quantized(quantizing.block()), quantized(quantizing.block())
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(
        deterministic=True
    )


def test_the_given_model_is_left_as_it_is() -> None:
    model = quantizing.block()
    before = model.SerializeToString(deterministic=True)
    quantized(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_range_without_width_still_quantizes() -> None:
    model = quantizing.block()
    ranges = {name: Range(0.0, 0.0) for name in float_tensors(model)}
    found = insert_qdq(model, ranges, layers(model), INT8)
    assert np.isfinite(run(session(found), quantizing.random(1, 3, 16, 16))[0]).all()
