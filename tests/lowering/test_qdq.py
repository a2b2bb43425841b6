"""Pairs disappear, and what they said is remembered."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.lowering.qdq import has_pairs, read_pairs
from mbv3c.lowering.quantization import Quantization
from tests.quantized_networks import network


def graph(text: str, **initializers: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def test_what_is_left_is_the_network_in_fp32() -> None:
    model = network()
    found = read_pairs(model)
    operators = {node.op_type for node in found.model.graph.node}
    assert not {"QuantizeLinear", "DequantizeLinear"} & operators
    assert has_pairs(model)
    assert not has_pairs(found.model)
    onnx.checker.check_model(found.model, full_check=True)
    assert set(found.weights) >= {"w_stem_DequantizeLinear_Output"}
    assert "logits" in found.activations


def test_integers_round_to_even_and_saturate() -> None:
    steps = Quantization(0.5, 3)
    x = np.array([0.25, 0.75, -0.25, 1000.0, -1000.0], np.float32)
    np.testing.assert_array_equal(steps.quantize(x), [3, 5, 3, 127, -128])
    np.testing.assert_array_equal(steps.dequantize(steps.quantize(x))[:2], [0.0, 1.0])


def test_uint8_is_counted_from_another_zero() -> None:
    found = read_pairs(
        graph(
            """g (float[1, 4] x) => (float[1, 4] y)
            <float s = {0.5}, uint8 z = {130}>
            { r = Relu(x) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }"""
        )
    )
    assert [node.op_type for node in found.model.graph.node] == ["Relu"]
    assert found.activations == {"y": Quantization(0.5, 2)}


def test_a_tensor_that_is_wanted_unrounded_too_keeps_a_node() -> None:
    found = read_pairs(
        graph(
            """g (float[1, 4] x) => (float[1, 4] y, float[1, 4] r)
            <float s = {0.5}, int8 z = {0}>
            { r = Relu(x) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }"""
        )
    )
    assert [node.op_type for node in found.model.graph.node] == ["Relu", "Identity"]


@pytest.mark.parametrize(
    ("stored", "zero", "dtype"),
    [
        ([-128, 127], [5], np.int16),
        ([-120, 127], [5], np.int8),
        ([-128, 127], [-128], None),  # 255 is no sum of two int8
    ],
)
def test_weights_less_their_zero_point(
    stored: list[int], zero: list[int], dtype: type | None
) -> None:
    model = graph(
        """g (float[1, 2] x) => (float[1, 1] y) <float s = {0.5}>
        { w = DequantizeLinear(q, s, z) y = MatMul(x, w) }""",
        q=np.array(stored, np.int8)[:, None],
        z=np.array(zero, np.int8).reshape(()),
    )
    weights = read_pairs(model).weights.get("w")
    assert (weights.integers.dtype if weights else None) == dtype
    if weights:
        np.testing.assert_array_equal(weights.integers[:, 0], np.array(stored) - zero)
    narrow = read_pairs(model, wide=False).weights
    assert ("w" in narrow) == (dtype == np.int8)


def test_pairs_of_other_integers_and_of_channels_stay() -> None:
    for zero in ("int16 z = {0}", "int8[4] z = {0, 0, 0, 0}"):
        scale = "float[4] s = {0.5, 0.5, 0.5, 0.5}" if "[4]" in zero else "float s = {0.5}"
        model = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21]>
            g (float[1, 4] x) => (float[1, 4] y)
            <{scale}, {zero}>
            {{ r = Relu(x) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }}"""
        )
        found = read_pairs(model)
        assert not found.activations
        assert len(found.model.graph.node) == 3
