"""A model's own functions give way to their bodies, also those that call others."""

import onnx
import pytest

from mbv3c.passes.inline_functions import inline_functions
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators

FUNCTIONS = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[1, 4] x) => (float[1, 4] y) {
        [first] a = own.swish (x)
        [last] y = own.swish (a)
    }
    <domain: "own", opset_import: ["" : 17, "own" : 1]>
    swish (x) => (y) { g = own.gate (x)  y = Mul (x, g) }
    <domain: "own", opset_import: ["" : 17]>
    gate (x) => (y) { y = HardSigmoid <alpha = 0.16666667> (x) }
"""


def test_calls_within_calls() -> None:
    rewritten, report = fires(inline_functions, onnx.parser.parse_model(FUNCTIONS))
    assert operators(rewritten) == ["HardSigmoid", "Mul", "HardSigmoid", "Mul"]
    assert report.matched == ("first", "last")
    assert not rewritten.functions


def test_a_function_of_an_older_opset_is_converted() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[1, 4] x) => (float[1, 4, 1] y) { y = own.f (x) }
        <domain: "own", opset_import: ["" : 11]>
        f (x) => (y) { y = Unsqueeze <axes = [2]> (x) }
    """)
    rewritten, _ = inline_functions(model)  # onnxruntime does not load the one given
    onnx.checker.check_model(rewritten, full_check=True)
    unsqueeze = next(node for node in rewritten.graph.node if node.op_type == "Unsqueeze")
    assert len(unsqueeze.input) == 2


def test_a_model_without_functions_stays() -> None:
    ignores(inline_functions, graph("g (float[4] x) => (float[4] y) { y = HardSwish(x) }"))


@pytest.mark.parametrize(
    ("opset", "call"),
    [(21, "Celu <alpha = 1.5> (x)"), (24, "Swish (x)"), (23, "Attention (x, x, x)")],
)
def test_what_onnx_defines_by_other_operators(opset: int, call: str) -> None:
    text = f"g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {{ [it] y = {call} }}"
    rewritten, report = fires(inline_functions, graph(text, opset))
    assert report.matched == ("it",)
    assert call.split()[0] not in operators(rewritten)


def test_a_call_that_leaves_an_attribute_to_its_default() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[1, 4] x) => (float[1, 4] y) { a = own.leaky (x)  y = own.leaky <slope = 0.1> (a) }
        <domain: "own", opset_import: ["" : 17]>
        leaky <slope: float = 0.3> (x) => (y) { y = LeakyRelu <alpha: float = @slope> (x) }
    """)
    rewritten, _ = fires(inline_functions, model)
    slopes = [node.attribute[0].f for node in rewritten.graph.node]
    assert slopes == pytest.approx([0.3, 0.1])
