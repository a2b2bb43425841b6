"""onnxsim folds constants and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.parity.reference import run, session
from mbv3c.passes.simplify import simplify
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, leaves_alone, operators


def test_folds_what_the_input_shape_makes_constant() -> None:
    model = graph("""
        g (float[2, 4, 3, 3] x) => (float[2, 36] y) {
            [shape] s = Shape(x)
            [first] zero = Constant <value_ints = [0]> ()
            [batch] n = Gather(s, zero)
            [rest] r = Constant <value_ints = [-1]> ()
            [target] t = Concat <axis = 0> (n, r)
            [flatten] y = Reshape(x, t)
        }
    """)
    rewritten, report = fires(simplify, model, tolerance=0)
    assert operators(rewritten) == ["Reshape"]
    assert report.matched == ("shape", "first", "batch", "rest", "target")


def test_names_only_what_it_folded_where_nodes_have_no_names() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[4] y) {
            target = Constant <value_ints = [-1]> ()
            y = Reshape(x, target)
        }
    """)
    _, report = fires(simplify, model, tolerance=0)
    assert len(report.matched) == report.nodes_before - report.nodes_after


def test_leaves_fusions_to_our_own_passes() -> None:
    model = graph("""
        g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
        <float[1, 1, 1, 1] w = {2}, float[1] s = {2}, float[1] b = {1}, float[1] v = {3},
         float three = {3}, float zero = {0}, float six = {6}> {
            c = Conv(x, w)
            n = BatchNormalization(c, s, b, b, v)
            a = Add(n, three)
            r = Clip(a, zero, six)
            m = Mul(n, r)
            y = Div(m, six)
        }
    """)
    leaves_alone(simplify, model)


def test_a_graph_without_constants_to_fold_is_not_changed(network) -> None:
    leaves_alone(simplify, network)


def test_a_broken_graph_is_an_error_with_a_reason() -> None:
    model = graph("g (float[4] x) => (float[4] y) { y = Add(x, x) }")
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ModelError, match=r"(?s)onnxsim cannot simplify the model: .*nowhere"):
        simplify(model)


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_a_deprecated_normalisation_is_written_otherwise(opset: int) -> None:
    """onnxsim refuses GroupNormalization before opset 21."""
    channels = 3 if opset < 21 else 6
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        "g (float[2, 6, 3, 5] x) => (float[2, 6, 3, 5] y) "
        "{ y = GroupNormalization <num_groups = 3> (x, s, b) }"
    )
    for name, value in {"s": 2, "b": 1}.items():
        values = np.full(channels, value, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    rewritten, _ = simplify(model)
    assert "GroupNormalization" not in {node.op_type for node in rewritten.graph.node}
    x = random(2, 6, 3, 5)
    np.testing.assert_allclose(run(session(rewritten), x)[0], run(session(model), x)[0], atol=1e-5)
