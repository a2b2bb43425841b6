"""Constants are initialisers, whoever wrote them how."""

import numpy as np
import onnx
import pytest

from mbv3c.passes.lift_constants import lift_constants
from tests.onnx_text import graph
from tests.passes.rewriting import error, fires, ignores, initializers, leaves_alone, ports


def test_constant_nodes_become_initialisers() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y) {
            [weights] w = Constant <value = float[4] {1, 2, 3, 4}> ()
            [number] n = Constant <value_float = 3.0> ()
            a = Mul (x, w)
            y = Add (a, n)
        }
    """)
    rewritten, report = fires(lift_constants, model, tolerance=0)
    assert report.matched == ("weights", "number")
    stored = initializers(rewritten)
    np.testing.assert_array_equal(stored["w"], [1, 2, 3, 4])
    assert stored["n"] == 3


@pytest.mark.parametrize("ir_version", [3, 4, 8])
def test_a_listed_initialiser_is_no_input(ir_version: int) -> None:
    text = "g (float[1, 4] x, float k) => (float[1, 4] y) { y = Add(x, k) }"
    model = graph(text, 11, k=np.array(3, np.float32))
    model.ir_version = ir_version
    rewritten, report = lift_constants(model)
    assert ports(rewritten) == (["x"], ["y"])
    assert report.matched == ("k",)
    assert error(model, rewritten) == 0


def test_a_constant_that_is_an_output_stays() -> None:
    text = """
        g (float[1, 4] x) => (float[1, 4] y, float z) {
            y = Relu (x)
            z = Constant <value_float = 3.0> ()
        }
    """
    leaves_alone(lift_constants, graph(text))


def test_a_graph_of_initialisers_stays() -> None:
    ignores(lift_constants, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


def test_sparse_constants_are_filled_with_their_zeros() -> None:
    sparse = onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "v"),
        onnx.numpy_helper.from_array(np.array([[0, 1], [1, 2]]), "places"),
        [2, 3],
    )
    model = graph("g (float[2, 3] x) => (float[2, 3] y) { a = Add (x, s)  y = Relu (a) }", s=SUM)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    model.graph.node[2].input[0] = "b"
    model.graph.node.insert(2, onnx.helper.make_node("Add", ["a", "c"], ["b"], "sum"))
    rewritten, _ = lift_constants(model)
    np.testing.assert_array_equal(initializers(rewritten)["c"], [[0, 1, 0], [0, 0, 2]])
    assert error(model, rewritten) == 0


SUM = np.arange(6, dtype=np.float32).reshape(2, 3)
