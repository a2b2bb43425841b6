"""relu6(x + 3) / 6 becomes HardSigmoid, and nothing else does."""

import numpy as np
import pytest
from onnx import helper

from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from tests.onnx_text import graph
from tests.passes.rewriting import HALF_ROUNDING, fires, ignores, operators, refuses

HARDSIGMOID = """
    g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
    <float three = {3}, float zero = {0}, float six = {6}> {
        ["gate.add"] a = Add(x, three)
        ["gate.clip"] c = Clip(a, zero, six)
        ["gate.div"] y = Div(c, six)
    }
"""
SIXTH = 0.16666667  # 1/6, as fp32 prints it
MULTIPLIED = HARDSIGMOID.replace(
    '["gate.div"] y = Div(c, six)',
    f'sixth = Constant <value_float = {SIXTH}> () ["gate.mul"] y = Mul(c, sixth)',
)


@pytest.mark.parametrize("add", ["Add(x, three)", "Add(three, x)"])
@pytest.mark.parametrize(
    "text",
    [HARDSIGMOID, MULTIPLIED, MULTIPLIED.replace("Mul(c, sixth)", "Mul(sixth, c)")],
    ids=["divided", "multiplied", "multiplied from the left"],
)
def test_fires_in_both_spellings_and_orders(text: str, add: str) -> None:
    rewritten, report = fires(FuseHardSigmoid(), graph(text.replace("Add(x, three)", add)))
    assert [op for op in operators(rewritten) if op != "Constant"] == ["HardSigmoid"]
    assert report.matched == ("gate",)
    assert report.refused == ()
    fused = rewritten.graph.node[-1]
    assert fused.name == "gate"
    attributes = {a.name: helper.get_attribute_value(a) for a in fused.attribute}
    assert attributes == {"alpha": pytest.approx(1 / 6), "beta": 0.5}


@pytest.mark.parametrize("shape", ["", "[1]", "[1, 1, 1, 1]"])
def test_fires_with_constants_of_any_rank(shape: str) -> None:
    text = HARDSIGMOID.replace("float three", f"float{shape} three")
    text = text.replace("{6}>", f"{{6}}, float{shape} divisor = {{6}}>")
    rewritten, _ = fires(FuseHardSigmoid(), graph(text.replace("Div(c, six)", "Div(c, divisor)")))
    assert operators(rewritten) == ["HardSigmoid"]


def test_fires_with_constant_nodes() -> None:
    model = graph("""
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {
            three = Constant <value_float = 3.0> ()
            zero = Constant <value_float = 0.0> ()
            six = Constant <value = float six {6}> ()
            a = Add(x, three)
            c = Clip(a, zero, six)
            y = Div(c, six)
        }
    """)
    rewritten, _ = fires(FuseHardSigmoid(), model)
    assert operators(rewritten)[-1] == "HardSigmoid"


@pytest.mark.parametrize("last", ["Div(c, six)", "Mul(c, sixth)"])
def test_fires_in_fp16(last: str) -> None:
    model = graph(
        f"""
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {{
            h = Cast <to = 10> (x)
            a = Add(h, three)
            c = Clip(a, zero, six)
            d = {last}
            y = Cast <to = 1> (d)
        }}
        """,
        three=np.array(3, np.float16),
        zero=np.array(0, np.float16),
        six=np.array(6, np.float16),
        sixth=np.array(1 / 6, np.float16),
    )
    rewritten, _ = fires(FuseHardSigmoid(), model, HALF_ROUNDING)
    assert operators(rewritten) == ["Cast", "HardSigmoid", "Cast"]


def test_fires_at_every_place() -> None:
    model = graph("""
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
        <float three = {3}, float zero = {0}, float six = {6}> {
            ["one.add"] a = Add(x, three)
            ["one.clip"] b = Clip(a, zero, six)
            ["one.div"] c = Div(b, six)
            ["two.add"] d = Add(c, three)
            ["two.clip"] e = Clip(d, zero, six)
            ["two.div"] y = Div(e, six)
        }
    """)
    rewritten, report = fires(FuseHardSigmoid(), model)
    assert operators(rewritten) == ["HardSigmoid", "HardSigmoid"]
    assert report.matched == ("one", "two")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("three = {3}", "three = {2.9}", "Add's constant must be 3, got 2.9"),
        ("zero = {0}", "zero = {-1}", "Clip's minimum must be 0, got -1"),
        ("Clip(a, zero, six)", "Clip(a, zero, three)", "Clip's maximum must be 6, got 3"),
        ("Div(c, six)", "Div(c, three)", "Div's constant must be 6, got 3"),
    ],
)
def test_refuses_a_wrong_constant(old: str, new: str, reason: str) -> None:
    assert refuses(FuseHardSigmoid(), graph(HARDSIGMOID.replace(old, new))) == reason


def test_refuses_clip_to_four() -> None:
    text = HARDSIGMOID.replace("{6}>", "{6}, float four = {4}>").replace(
        "zero, six)", "zero, four)"
    )
    assert refuses(FuseHardSigmoid(), graph(text)) == "Clip's maximum must be 6, got 4"


def test_refuses_a_wrong_factor() -> None:
    reason = refuses(FuseHardSigmoid(), graph(MULTIPLIED.replace(str(SIXTH), "0.2")))
    assert reason == "Mul's constant must be 0.1666667, got 0.2"


def test_refuses_in_fp32_a_factor_that_only_fp16_could_excuse() -> None:
    rounded = str(float(np.float16(1 / 6)))
    reason = refuses(FuseHardSigmoid(), graph(MULTIPLIED.replace(str(SIXTH), rounded)))
    assert "Mul's constant must be 0.1666667" in reason


@pytest.mark.parametrize(("tensor", "node"), [("a", "gate.clip"), ("c", "gate.div")])
def test_refuses_a_shared_intermediate(tensor: str, node: str) -> None:
    text = HARDSIGMOID.replace(
        "=> (float[1, 4, 3, 3] y)", "=> (float[1, 4, 3, 3] y, float[1, 4, 3, 3] z)"
    )
    text = text.replace('["gate.div"]', f'[other] z = Neg({tensor}) ["gate.div"]')
    reason = refuses(FuseHardSigmoid(), graph(text))
    assert reason == f"intermediate '{tensor}' is also used by 'other'"


@pytest.mark.parametrize("tensor", ["a", "c"])
def test_refuses_an_intermediate_that_is_an_output(tensor: str) -> None:
    text = HARDSIGMOID.replace("] y)", f"] y, float[1, 4, 3, 3] {tensor})")
    reason = refuses(FuseHardSigmoid(), graph(text))
    assert reason == f"intermediate '{tensor}' is an output of the graph"


def test_refusal_names_the_last_node() -> None:
    _, report = FuseHardSigmoid()(graph(HARDSIGMOID.replace("three = {3}", "three = {2.9}")))
    assert [refusal.node for refusal in report.refused] == ["gate.div"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Clip(a, zero, six)", "Clip(a, , six)"),
        ("Clip(a, zero, six)", "Clip(a, zero)"),
        ("Div(c, six)", "Div(six, c)"),
        ("Div(c, six)", "Div(c, x)"),
        ("Add(x, three)", "Sub(x, three)"),
        ("Add(x, three)", "Add(x, x)"),
    ],
)
def test_ignores_what_only_resembles_it(old: str, new: str) -> None:
    ignores(FuseHardSigmoid(), graph(HARDSIGMOID.replace(old, new)))


def test_refuses_constants_that_raise_the_rank() -> None:
    """`[1, 1, 1, 1]` makes a matrix four-dimensional; HardSigmoid would not."""
    model = graph("""
        g (float[3, 4] x) => (float[1, 1, 3, 4] y)
        <float[1, 1, 1, 1] three = {3}, float zero = {0}, float six = {6}> {
            a = Add(x, three)
            c = Clip(a, zero, six)
            y = Div(c, six)
        }
    """)
    _, report = FuseHardSigmoid()(model)
    assert not report.changed


def test_refuses_integers() -> None:
    """HardSigmoid exists for floating point only; Div of integers rounds down."""
    model = graph("""
        g (float[3, 4] x) => (float[3, 4] y)
        <int32 three = {3}, int32 zero = {0}, int32 six = {6}> {
            i = Cast <to = 6> (x)
            a = Add(i, three)
            c = Clip(a, zero, six)
            d = Div(c, six)
            y = Cast <to = 1> (d)
        }
    """)
    _, report = FuseHardSigmoid()(model)
    assert not report.changed


INSIDE = """
    g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
    <float three = {3}, float zero = {0}, float six = {6}, float one = {1}, float half = {0.5},
     float sixth = {0.16666667}, float fifth = {0.2}, float minus = {-0.2}> { {body} }
"""


def inside(body: str) -> str:
    return INSIDE.replace("{body}", body)


@pytest.mark.parametrize(
    ("body", "alpha"),
    [
        ("a = Add(x, three) d = Div(a, six) y = Clip(d, zero, one)", 1 / 6),
        ("a = Add(three, x) d = Mul(a, sixth) y = Clip(d, zero, one)", 1 / 6),
        ("a = Add(three, x) d = Mul(sixth, a) y = Clip(d, zero, one)", 1 / 6),
        ("a = Mul(x, sixth) d = Add(a, half) y = Clip(d, zero, one)", 1 / 6),
        ("a = Mul(fifth, x) d = Add(half, a) y = Clip(d, zero, one)", 0.2),
        ("a = Div(x, six) d = Add(a, half) y = Clip(d, zero, one)", 1 / 6),
        ("a = Div(x, six) d = Add(half, a) y = Clip(d, zero, one)", 1 / 6),
    ],
)
def test_fires_where_the_line_is_drawn_before_the_clip(body: str, alpha: float) -> None:
    rewritten, _ = fires(FuseHardSigmoid(), graph(inside(body)))
    assert operators(rewritten) == ["HardSigmoid"]
    attributes = {a.name: a.f for a in rewritten.graph.node[0].attribute}
    assert attributes == {"alpha": pytest.approx(alpha), "beta": 0.5}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "a = Add(x, three) d = Div(a, six) y = Clip(d, zero, six)",
            "Clip's maximum must be 1, got 6",
        ),
        (
            "a = Add(x, three) d = Mul(a, fifth) y = Clip(d, zero, one)",
            "Mul's constant must be 0.1666667, got 0.2",
        ),
        (
            "a = Mul(x, sixth) d = Add(a, half) y = Clip(d, half, one)",
            "Clip's minimum must be 0, got 0.5",
        ),
        (
            "a = Mul(x, minus) d = Add(a, half) y = Clip(d, zero, one)",
            "the line before the Clip does not rise",
        ),
    ],
)
def test_refuses_a_wrong_constant_before_the_clip(body: str, reason: str) -> None:
    assert refuses(FuseHardSigmoid(), graph(inside(body))) == reason
