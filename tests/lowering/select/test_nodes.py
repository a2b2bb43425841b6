"""What the rules see in a node, and what they refuse."""

import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import (
    branch_of,
    convolution_of,
    ordered_operands,
    product_of,
    with_activation,
)
from tests.onnx_text import graph as parsed
from tests.onnx_text import random

BRANCH = """
    s = GlobalAveragePool(x)
    r = Conv(s, w1, b1)
    q = Relu(r)
    e = Conv(q, w2)
    g = HardSigmoid(e)
    y = Mul(x, g)
"""


def graph(body: str, outputs: str = "float[a, b, c, d] y", **steps: Quantization) -> Graph:
    weights = {
        "w1": random(4, 8, 1, 1),
        "b1": random(4),
        "w2": random(8, 4, 1, 1),
        "w": random(8, 1, 3, 3),
        "m": random(5, 7),
    }
    text = f"g (float[2, 8, 5, 5] x, float[3, 5] u) => ({outputs}) {{ {body} }}"
    return Graph(QuantizedGraph(parsed(text, **weights), steps))


def node(graph: Graph, at: int = 0) -> onnx.NodeProto:
    return graph.model.graph.node[at]


def test_a_depthwise_convolution() -> None:
    known = graph("y = Conv<group = 8, pads = [1, 1, 1, 1], strides = [2, 2]>(x, w)")
    conv = convolution_of(node(known), known)
    assert conv is not None
    assert (conv.batch, conv.inputs, conv.outputs, conv.groups) == (2, 8, 8, 8)
    assert [axis.outputs for axis in conv.axes] == [3, 3]
    assert conv.is_depthwise
    assert not conv.is_pointwise
    assert not conv.bias.any()
    assert product_of(node(known), known) is None


def test_a_1x1_convolution_is_a_product_of_places() -> None:
    known = graph("y = Conv(x, w1, b1)")
    product = product_of(node(known), known)
    assert product is not None
    assert (product.rows, product.weights.shape, product.channels_last) == (50, (4, 8), True)
    np.testing.assert_array_equal(product.bias, known.stored["b1"])


def test_a_1x1_convolution_with_strides_is_none() -> None:
    known = graph("y = Conv<strides = [2, 2]>(x, w1)")
    assert convolution_of(node(known), known) is not None
    assert product_of(node(known), known) is None


def test_a_matrix_product_has_its_outputs_first() -> None:
    known = graph("y = Gemm(u, m)", "float[3, 7] y")
    product = product_of(node(known), known)
    assert product is not None
    assert (product.rows, product.weights.shape, product.channels_last) == (3, (7, 5), False)


@pytest.mark.parametrize("body", ["y = Gemm<alpha = 2.0>(u, m)", "y = Gemm(m, u)"])
def test_another_matrix_product_is_none(body: str) -> None:
    text = f"g (float[5, 5] u) => (float[5, 5] y) {{ {body} }}"
    known = Graph(QuantizedGraph(parsed(text, m=random(5, 5))))
    assert product_of(node(known), known) is None


def test_a_branch() -> None:
    known = graph(BRANCH)
    branch = branch_of(node(known), known)
    assert branch is not None
    assert [one.op_type for one in branch.nodes][::5] == ["GlobalAveragePool", "Mul"]
    assert (branch.w1.shape, branch.w2.shape) == ((4, 8), (8, 4))
    assert (branch.reduce.low, branch.gate.scale) == (0.0, pytest.approx(0.2))


@pytest.mark.parametrize(
    "body",
    [
        BRANCH.replace("Relu(r)", "Sigmoid(r)"),
        BRANCH.replace("Mul(x, g)", "Add(x, g)"),
        BRANCH.replace("Mul(x, g)", "Mul(o, g)").replace("s =", "o = Relu(x) s =", 1),
        BRANCH + "z = Relu(q)",
    ],
    ids=["activation", "sum", "another map", "used twice"],
)
def test_what_is_no_branch(body: str) -> None:
    known = graph(body)
    pool = next(one for one in known.model.graph.node if one.op_type == "GlobalAveragePool")
    assert branch_of(pool, known) is None


def test_rounding_in_between_ends_a_branch_and_an_activation() -> None:
    """A kernel of floats that took what follows along would not round."""
    known = graph(BRANCH, r=Quantization(0.1, 0))
    assert branch_of(node(known), known) is None
    assert [one.op_type for one in with_activation(node(known, 1), known)[0]] == ["Conv"]
    known.steps.clear()
    assert [one.op_type for one in with_activation(node(known, 1), known)[0]] == ["Conv", "Relu"]


def test_the_larger_operand_comes_first() -> None:
    known = graph(BRANCH.replace("Mul(x, g)", "Mul(g, x)"))
    assert ordered_operands(["g", "x"], "y", known) == (["x", "g"], True)
    assert ordered_operands(["x", "x"], "x", known) == (["x", "x"], False)
    assert ordered_operands(["s", "s"], "x", known) is None


def test_a_shape_that_is_not_fixed_is_an_error() -> None:
    known = Graph(QuantizedGraph(parsed("g (float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }")))
    with pytest.raises(ModelError, match="'x' is dynamic; fix it with --input-shape"):
        known.shape("x")
