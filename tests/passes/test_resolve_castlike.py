"""CastLike becomes Cast where the type is known."""

import pytest
from onnx import helper

from mbv3c.passes.resolve_castlike import ResolveCastLike
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators


@pytest.mark.parametrize(("made", "number"), [("Cast <to = 10> (x)", 10), ("Relu(x)", 1)])
def test_fires(made: str, number: int) -> None:
    model = graph(f"""
        g (float[1, 4] x) => (float[1, 4] y) <int64 three = {{3}}> {{
            h = {made}
            [like] k = CastLike(three, h)
            s = Add(h, k)
            y = Cast <to = 1> (s)
        }}
    """)
    rewritten, report = fires(ResolveCastLike(), model, tolerance=0)
    assert report.matched == ("like",)
    cast = next(node for node in rewritten.graph.node if node.name == "like")
    assert cast.op_type == "Cast"
    assert helper.get_attribute_value(cast.attribute[0]) == number


def test_ignores_a_cast() -> None:
    model = graph("g (float[4] x) => (double[4] y) { y = Cast <to = 11> (x) }")
    ignores(ResolveCastLike(), model)
    assert operators(model) == ["Cast"]
