"""What a model computes in half precision is computed in fp32, between ends of its own types."""

import numpy as np
import onnx
import pytest

from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.reference import run, session
from mbv3c.passes import COMPILING, PIPELINE, run_pipeline
from mbv3c.passes.widen_halves import widen_halves
from tests.onnx_text import graph, random


def halves(tensors: onnx.GraphProto) -> list[str]:
    return [t.name for t in tensors.initializer if t.data_type == onnx.TensorProto.FLOAT16]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


WEIGHTS = {"w": random(4, 3, 1, 1).astype(np.float16)}


def test_everything_between_the_ends() -> None:
    model = graph(
        "g (float16[1, 3, 8, 8] x) => (float16[1, 4, 8, 8] y) { c = Conv(x, w) y = Relu(c) }",
        **WEIGHTS,
    )
    widened, report = widen_halves(model)
    assert report.changed
    assert kinds(widened) == ["Cast", "Conv", "Relu", "Cast"]
    assert halves(widened.graph) == []
    onnx.checker.check_model(widened, full_check=True)
    (x, *_) = inputs_of(model)
    ((wanted,), (got,)) = run(session(model), x), run(session(widened), x)
    assert got.dtype == wanted.dtype == np.float16
    np.testing.assert_allclose(got.astype(float), wanted.astype(float), atol=2e-2)
    again, report = widen_halves(widened)
    assert again is widened
    assert not report.changed


def test_halves_between_casts() -> None:
    model = graph(
        "g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y)"
        "{ h = Cast <to = 10> (x) c = Conv(h, w) y = Cast <to = 1> (c) }",
        **WEIGHTS,
    )
    rewritten, _ = run_pipeline(model, COMPILING)
    assert kinds(rewritten) == ["Conv"]
    assert kinds(run_pipeline(model, PIPELINE)[0]) == ["Cast", "Conv", "Cast"]


def test_an_output_that_is_read_on() -> None:
    model = graph("g (float16[4] x) => (float16[4] y, float16[4] z) { y = Relu(x) z = Neg(y) }")
    widened, _ = widen_halves(model)
    onnx.checker.check_model(widened, full_check=True)
    x = np.array([1, -2, 3, -4], np.float16)
    for wanted, got in zip(run(session(model), x), run(session(widened), x), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[4] x) => (float[4] y) { y = Relu(x) }",
        "g (float16[4] x) => (float16[4] y)"
        "{ w = Cast <to = 1> (x) r = Relu(w) y = Cast <to = 10> (r) }",
    ],
)
def test_nothing_to_do(text: str) -> None:
    model = graph(text)
    widened, report = widen_halves(model)
    assert widened is model
    assert not report.changed


def test_a_graph_within_a_graph_is_left_alone() -> None:
    model = graph(
        "g (float16[4] x, bool c) => (float16[4] y) { y = If (c) <"
        "then_branch = t () => (float16[4] a) { a = Relu(x) },"
        "else_branch = e () => (float16[4] b) { b = Neg(x) }> }"
    )
    widened, report = widen_halves(model)
    assert widened is model
    assert "graph of its own" in report.refused[0].reason
