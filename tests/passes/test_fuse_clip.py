"""Min, Max and Relu become Clip; what is no clipping stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.fuse_clip import FuseClip
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, initializers, operators, refuses

MIN_MAX = """
    g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) <float zero = {0}, float six = {6}> {
        ["act.max"] m = Max(x, zero)
        ["act.min"] y = Min(m, six)
    }
"""
# Both operands of both operators: x, the first bound; m, the second one.
SPELLINGS = (
    ("Max", "zero", "Min", "six"),
    ("Min", "six", "Max", "zero"),
)


def spelled(spelling: tuple[str, str, str, str], swap: tuple[bool, bool]) -> str:
    """Return Min and Max as nodes, each pair of operands in one of its orders."""
    first, inner, second, outer = spelling
    operands = [("x", inner), ("m", outer)]
    pairs = [", ".join(p[::-1] if s else p) for p, s in zip(operands, swap, strict=True)]
    return f"m = {first}({pairs[0]}) y = {second}({pairs[1]})"


@settings(max_examples=30, deadline=None)
@given(
    spelling=st.sampled_from(SPELLINGS),
    swap=st.tuples(st.booleans(), st.booleans()),
    shape=st.sampled_from(["", "[1]", "[1, 1]", "[1, 1, 1, 1]"]),
    nodes=st.booleans(),
    high=st.sampled_from([1, 4, 6]),
    opset=st.integers(13, 18),
)
def test_any_spelling_fires(
    spelling: tuple[str, str, str, str],
    swap: tuple[bool, bool],
    shape: str,
    nodes: bool,
    high: int,
    opset: int,
) -> None:
    constants = {"zero": 0, "six": high}
    if nodes:
        stored = "".join(
            f"{name} = Constant <value = float{shape} {name} {{{number}}}> () "
            for name, number in constants.items()
        )
        text = f"{{ {stored} {spelled(spelling, swap)} }}"
    else:
        stored = ", ".join(f"float{shape} {n} = {{{number}}}" for n, number in constants.items())
        text = f"<{stored}> {{ {spelled(spelling, swap)} }}"
    model = graph(f"g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {text}", opset)
    rewritten, _ = fires(FuseClip(), model, tolerance=0)
    assert [op for op in operators(rewritten) if op != "Constant"] == ["Clip"]
    node = rewritten.graph.node[-1]
    bounds = [initializers(rewritten)[name] for name in node.input[1:]]
    assert [(bound.item(), bound.shape) for bound in bounds] == [(0, ()), (high, ())]


@pytest.mark.parametrize(
    ("body", "low"),
    [
        ("m = Relu(x) y = Clip(m, low, six)", 0),
        ("m = Relu(x) y = Clip(m, three, six)", 3),
        ("m = Relu(x) y = Clip(m, , six)", 0),
        ("m = Relu(x) y = Min(m, six)", 0),
        ("m = Relu(x) y = Min(six, m)", 0),
        ("m = Min(x, six) y = Relu(m)", 0),
        ("m = Min(six, x) y = Relu(m)", 0),
    ],
)
def test_relu_raises_the_lower_bound(body: str, low: float) -> None:
    model = graph(f"""
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
        <float low = {{-1}}, float three = {{3}}, float six = {{6}}> {{ {body} }}
    """)
    rewritten, _ = fires(FuseClip(), model, tolerance=0)
    assert operators(rewritten) == ["Clip"]
    assert initializers(rewritten)[rewritten.graph.node[0].input[1]] == low


def test_names_the_block() -> None:
    rewritten, report = fires(FuseClip(), graph(MIN_MAX), tolerance=0)
    assert report.matched == ("act",)
    assert rewritten.graph.node[0].name == "act"


def test_fires_in_fp16() -> None:
    model = graph(
        """
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {
            h = Cast <to = 10> (x)
            m = Max(h, zero)
            n = Min(m, six)
            y = Cast <to = 1> (n)
        }
        """,
        zero=np.array(0, np.float16),
        six=np.array(6, np.float16),
    )
    rewritten, _ = fires(FuseClip(), model, tolerance=0)
    assert operators(rewritten) == ["Cast", "Clip", "Cast"]


def test_refuses_bounds_that_cross() -> None:
    """Max last and Min last give different results there."""
    reason = refuses(FuseClip(), graph(MIN_MAX.replace("zero = {0}", "zero = {7}")))
    assert reason == "the lower bound 7 lies above the upper one, 6"


def test_refuses_integers() -> None:
    text = MIN_MAX.replace("float", "int32")
    assert refuses(FuseClip(), graph(text)) == "'x' is INT32, not a float"


def test_refuses_bounds_that_raise_the_rank() -> None:
    text = MIN_MAX.replace("(float[1, 4, 3, 3] x)", "(float[3, 3] x)")
    text = text.replace("float zero", "float[1, 1, 1, 1] zero").replace(
        "[1, 4, 3, 3] y", "[1, 1, 3, 3] y"
    )
    assert refuses(FuseClip(), graph(text)) == "'zero' has more dimensions than 'x' may have"


def test_refuses_a_shared_intermediate() -> None:
    text = MIN_MAX.replace("3] y)", "3] y, float[1, 4, 3, 3] z)")
    text = text.replace('["act.min"]', '[other] z = Neg(m) ["act.min"]')
    assert refuses(FuseClip(), graph(text)) == "intermediate 'm' is also used by 'other'"


def test_refuses_an_intermediate_that_is_an_output() -> None:
    text = MIN_MAX.replace("3] y)", "3] y, float[1, 4, 3, 3] m)")
    assert refuses(FuseClip(), graph(text)) == "intermediate 'm' is an output of the graph"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Max(x, zero)", "Max(x, x)"),
        ("Max(x, zero)", "Min(x, zero)"),
        ("Min(m, six)", "Min(m, six, six)"),
        ("Min(m, six)", "Neg(m)"),
    ],
)
def test_ignores_what_only_resembles_it(old: str, new: str) -> None:
    ignores(FuseClip(), graph(MIN_MAX.replace(old, new)))
