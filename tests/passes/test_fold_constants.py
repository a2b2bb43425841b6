"""What a quantized graph computes of constants is stored; its integers stay integers."""

import numpy as np
import pytest

from mbv3c.passes.fold_constants import fold_constants
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, initializers, operators


def test_the_zero_points_and_scales_that_torch_writes() -> None:
    model = graph(
        """g (float[1, 4] x) => (float[2, 4] y) {
            zeros = ConstantOfShape <value = int64[1] {0}> (two)
            z = Cast <to = 6> (zeros)
            s = Mul (a, b)
            w = DequantizeLinear <axis = 0> (q, s, z)
            y = Add (x, w)
        }""",
        13,
        two=np.array([2]),
        a=np.array([0.3, 0.7], np.float32),
        b=np.array(0.1, np.float32),
        q=np.arange(8, dtype=np.int32).reshape(2, 4),
    )
    rewritten, report = fires(fold_constants, model, tolerance=0)
    assert operators(rewritten) == ["DequantizeLinear", "Add"]
    assert len(report.matched) == 3
    stored = initializers(rewritten)
    assert (stored["z"].dtype, stored["z"].tolist()) == (np.int32, [0, 0])
    np.testing.assert_array_equal(stored["s"], np.float32([0.3, 0.7]) * np.float32(0.1))


@pytest.mark.parametrize(
    "body",
    [
        "c = Cast <to = 1> (x) y = Relu(c)",
        "c = DequantizeLinear(q, s) y = Add(x, c)",
        "c = Relu(x) y = Mul(s, c)",
    ],
)
def test_what_reads_more_than_constants_and_integers_stay(body: str) -> None:
    stored = {"s": np.array(0.5, np.float32), "q": np.array([1, 2, 3, 4], np.int8)}
    used = {
        name: array for name, array in stored.items() if f"{name}," in body or f", {name}" in body
    }
    ignores(fold_constants, graph(f"g (float[4] x) => (float[4] y) {{ {body} }}", **used))


def test_an_output_and_what_is_huge_stay() -> None:
    text = """g (float[1] x) => (float[1] y, float[1] z) {
        z = Cast <to = 1> (one)
        large = ConstantOfShape(sizes)
        r = ReduceSum <keepdims = 0> (large)
        y = Add(x, r)
    }"""
    ignores(fold_constants, graph(text, one=np.array([1]), sizes=np.array([1 << 13, 1 << 13])))
