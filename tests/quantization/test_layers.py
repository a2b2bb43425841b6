"""How a graph is cut into layers, and what of it is never quantized."""

import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.reference import run, session
from mbv3c.passes import run_pipeline
from mbv3c.quantization.layers import float_tensors, layers, left_float, normalized
from tests.onnx_text import graph, random
from tests.quantization import quantizing


def test_a_block_is_cut_at_its_tensors() -> None:
    found = {layer.name: layer.operators for layer in layers(quantizing.block())}
    assert found == {
        "stem": ("Conv", "HardSwish"),
        "pool": ("GlobalAveragePool",),
        "squeeze": ("Conv", "Relu"),
        "excite": ("Conv", "Clip"),
        "scale": ("Mul",),
        "project": ("Conv",),
        "residual": ("Add",),
        "last": ("GlobalAveragePool", "Flatten"),
        "head": ("Gemm",),
    }


def test_an_activation_joins_only_what_nothing_else_reads() -> None:
    model = quantizing.graph(
        """g (float[1, 4, 4, 4] x) => (float[1, 4, 4, 4] y, float[1, 4, 4, 4] c)
        { [conv] c = Conv(x, w) [relu] y = Relu(c) }""",
        w=quantizing.random(4, 4, 1, 1),
    )
    assert [layer.nodes for layer in layers(model)] == [("conv",), ("relu",)]


def test_a_softmax_at_the_end_stays_float_and_one_inside_does_not() -> None:
    model = quantizing.graph(
        """g (float[1, 4] x) => (float[1, 4] y)
        {
            [first] a = Gemm(x, w)
            [inside] b = Softmax(a)
            [second] c = Gemm(b, w)
            [probabilities] d = Softmax(c)
            [shift] y = Add(d, d)
        }""",
        w=quantizing.random(4, 4),
    )
    assert set(left_float(model)) == {"probabilities", "shift"}
    assert [layer.name for layer in layers(model)] == ["first", "inside", "second"]


def test_a_detector_decodes_its_boxes_in_float() -> None:
    model = quantizing.rewritten(
        build_model(ModelSpec("small", head="ssdlite", classes=5, resolution=320))
    )
    reasons = left_float(model)
    weighted = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert {"scores.softmax", "boxes.size.exp", "boxes.offset.div"} <= set(reasons)
    assert not weighted & set(reasons)
    assert {layer.name for layer in layers(model)} >= weighted


def test_a_classifier_is_quantized_to_its_end(small: onnx.ModelProto) -> None:
    assert left_float(quantizing.rewritten(small)) == {}


def test_nodes_without_a_name_of_their_own_get_one() -> None:
    model = quantizing.graph(
        "g (float[4] x) => (float[4] y) { a = Relu(x) [same] b = Relu(a) [same] y = Relu(b) }"
    )
    named = normalized(model)
    assert [node.name for node in named.graph.node] == ["Relu_a", "Relu_b", "Relu_y"]
    assert [node.name for node in model.graph.node] == ["", "same", "same"]


def test_constants_become_initialisers() -> None:
    model = quantizing.graph(
        """g (float[4] x) => (float[4] y)
        {
            a = Constant <value = float {2.0}> ()
            b = Constant <value_float = 3.0> ()
            c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
            p = Add(x, a) q = Mul(p, b) y = Add(q, c)
        }"""
    )
    found = normalized(model)
    assert [node.op_type for node in found.graph.node] == ["Add", "Mul", "Add"]
    x = np.ones(4, np.float32)
    assert run(session(found), x)[0].tolist() == [10.0, 11.0, 12.0, 13.0]


def test_a_quantized_model_is_refused() -> None:
    model = quantizing.graph(
        """g (float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {0}>
        { [pair] q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    )
    with pytest.raises(ModelError, match=r"quantized already .node 'pair' is QuantizeLinear"):
        normalized(model)


def test_float_tensors_are_what_is_computed() -> None:
    model = quantizing.graph(
        """g (float[1, 4] x) => (float[2, 2] y)
        <int64[2] size = {2, 2}, float three = {3.0}>
        { a = Add(x, three) s = Shape(a) y = Reshape(a, size) }"""
    )
    assert list(float_tensors(model)) == ["x", "a", "y"]


def test_what_a_written_out_topk_compares_stays_float() -> None:
    """Rounded by itself, the largest number might equal none."""
    model = graph(
        """g (float[1, 8] x) => (float[1, 2] values, int64[1, 2] places) {
            s = MatMul(x, w)
            values, places = TopK<axis = 1>(s, count)
        }""",
        w=random(8, 8),
        count=np.array([2]),
    )
    rewritten = normalized(run_pipeline(model)[0])
    left = left_float(rewritten)
    quantized = {node.op_type for node in rewritten.graph.node if node.name not in left}
    assert quantized - {"Concat", "Cast"} == {"MatMul"}
    assert "ReduceMax" in {node.op_type for node in rewritten.graph.node}
