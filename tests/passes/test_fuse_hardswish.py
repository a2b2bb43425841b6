"""x · relu6(x + 3) / 6 becomes HardSwish in all of its spellings, and nothing else does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.fuse_hardswish import FuseHardSwish
from tests.onnx_text import graph
from tests.passes.rewriting import HALF_ROUNDING, fires, ignores, operators, refuses

SIXTH = "0.16666667"  # 1/6, as fp32 prints it
HEAD = f"""
    g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
    <float three = {{3}}, float zero = {{0}}, float six = {{6}}, float sixth = {{{SIXTH}}}>
"""
RELU6 = """
    ["act.add"] a = Add(x, three)
    ["act.clip"] c = Clip(a, zero, six)
"""
DIVIDED_LAST = '["act.mul"] m = Mul(x, c) ["act.div"] y = Div(m, six)'
MULTIPLIED_LAST = '["act.mul"] m = Mul(x, c) ["act.scale"] y = Mul(m, sixth)'
DIVIDED_FIRST = '["act.div"] m = Div(x, six) ["act.mul"] y = Mul(m, c)'
MULTIPLIED_FIRST = '["act.scale"] m = Mul(x, sixth) ["act.mul"] y = Mul(m, c)'
HARDSWISH = f"{HEAD} {{ {RELU6} {DIVIDED_LAST} }}"
HARDSIGMOID = """
    g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {
        [act] s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)
        ["act.mul"] y = Mul(x, s)
    }
"""


@pytest.mark.parametrize(
    "tail",
    [
        DIVIDED_LAST,
        DIVIDED_LAST.replace("Mul(x, c)", "Mul(c, x)"),
        MULTIPLIED_LAST,
        MULTIPLIED_LAST.replace("Mul(x, c)", "Mul(c, x)"),
        MULTIPLIED_LAST.replace("Mul(m, sixth)", "Mul(sixth, m)"),
        DIVIDED_FIRST,
        DIVIDED_FIRST.replace("Mul(m, c)", "Mul(c, m)"),
        MULTIPLIED_FIRST,
        MULTIPLIED_FIRST.replace("Mul(m, c)", "Mul(c, m)"),
        MULTIPLIED_FIRST.replace("Mul(x, sixth)", "Mul(sixth, x)"),
    ],
)
@pytest.mark.parametrize("add", ["Add(x, three)", "Add(three, x)"])
def test_fires_in_every_spelling_and_order(add: str, tail: str) -> None:
    text = f"{HEAD} {{ {RELU6.replace('Add(x, three)', add)} {tail} }}"
    rewritten, report = fires(FuseHardSwish(), graph(text))
    assert operators(rewritten) == ["HardSwish"]
    assert rewritten.graph.node[0].name == "act"
    assert report.matched == ("act",)
    assert report.refused == ()


@pytest.mark.parametrize("mul", ["Mul(x, s)", "Mul(s, x)"])
def test_fires_on_x_times_its_hardsigmoid(mul: str) -> None:
    rewritten, _ = fires(FuseHardSwish(), graph(HARDSIGMOID.replace("Mul(x, s)", mul)))
    assert operators(rewritten) == ["HardSwish"]


@settings(max_examples=25, deadline=None)
@given(
    divided=st.booleans(),
    first=st.booleans(),
    swapped=st.lists(st.booleans(), min_size=3, max_size=3),
    ranks=st.tuples(*[st.sampled_from([(), (1,), (1, 1), (1, 1, 1, 1)])] * 2),
    constant_nodes=st.booleans(),
    opset=st.integers(14, 17),
    shape=st.sampled_from([(1, 19, 2, 2), (2, 3, 5, 1), (1, 1, 4, 8)]),
)
def test_any_mixture_of_spellings_fires(
    divided: bool,
    first: bool,
    swapped: list[bool],
    ranks: tuple[tuple[int, ...], tuple[int, ...]],
    constant_nodes: bool,
    opset: int,
    shape: tuple[int, ...],
) -> None:
    def commutative(op_type: str, a: str, b: str, swap: bool) -> str:
        return f"{op_type}({b}, {a})" if swap else f"{op_type}({a}, {b})"

    def scaled(value: str) -> str:
        return f"Div({value}, k)" if divided else commutative("Mul", value, "k", swapped[0])

    def constant(name: str, value: str, rank: tuple[int, ...]) -> str:
        return f"{name} = Constant <value = float{list(rank) or ''} {name} {{{value}}}> ()"

    constants = {"three": ("3", ranks[0]), "k": ("6" if divided else SIXTH, ranks[1])}
    constants |= {"zero": ("0", ()), "six": ("6", ())}
    lines = [
        f"a = {commutative('Add', 'x', 'three', swapped[1])}",
        "c = Clip(a, zero, six)",
        f"m = {scaled('x') if first else commutative('Mul', 'x', 'c', swapped[2])}",
        f"y = {commutative('Mul', 'm', 'c', swapped[2]) if first else scaled('m')}",
    ]
    if constant_nodes:
        lines = [constant(name, *how) for name, how in constants.items()] + lines
        arrays = {}
    else:
        arrays = {n: np.full(rank, value, np.float32) for n, (value, rank) in constants.items()}
    size = list(shape)
    model = graph(f"g (float{size} x) => (float{size} y) {{ {' '.join(lines)} }}", opset, **arrays)
    rewritten, _ = fires(FuseHardSwish(), model)
    assert [op for op in operators(rewritten) if op != "Constant"] == ["HardSwish"]


def test_fires_in_fp16() -> None:
    model = graph(
        """
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {
            h = Cast <to = 10> (x)
            a = Add(h, three)
            c = Clip(a, zero, six)
            m = Mul(h, c)
            d = Mul(m, sixth)
            y = Cast <to = 1> (d)
        }
        """,
        three=np.array(3, np.float16),
        zero=np.array(0, np.float16),
        six=np.array(6, np.float16),
        sixth=np.array(1 / 6, np.float16),
    )
    rewritten, _ = fires(FuseHardSwish(), model, HALF_ROUNDING)
    assert operators(rewritten) == ["Cast", "HardSwish", "Cast"]


def test_fires_from_opset_14_and_refuses_below() -> None:
    assert fires(FuseHardSwish(), graph(HARDSWISH, opset=14))
    for text in (HARDSWISH, HARDSIGMOID):
        reason = refuses(FuseHardSwish(), graph(text, opset=13))
        assert reason == "HardSwish needs opset 14, the model has 13"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("three = {3}", "three = {2.9}", "Add's constant must be 3, got 2.9"),
        ("zero = {0}", "zero = {-1}", "Clip's minimum must be 0, got -1"),
        ("Clip(a, zero, six)", "Clip(a, zero, three)", "Clip's maximum must be 6, got 3"),
        ("Div(m, six)", "Div(m, three)", "Div's constant must be 6, got 3"),
        ("Div(m, six)", "Mul(m, three)", "Mul's constant must be 0.1666667, got 3"),
    ],
)
def test_refuses_a_wrong_constant(old: str, new: str, reason: str) -> None:
    assert refuses(FuseHardSwish(), graph(HARDSWISH.replace(old, new))) == reason


def test_refuses_clip_to_four() -> None:
    text = HARDSWISH.replace("{6},", "{6}, float four = {4},").replace("zero, six)", "zero, four)")
    assert refuses(FuseHardSwish(), graph(text)) == "Clip's maximum must be 6, got 4"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("alpha = 0.16666667, ", "", "HardSigmoid's alpha must be 0.1666667, got 0.2"),
        ("alpha = 0.16666667", "alpha = 0.25", "HardSigmoid's alpha must be 0.1666667, got 0.25"),
        ("beta = 0.5", "beta = 0.4", "HardSigmoid's beta must be 0.5, got 0.4"),
    ],
)
def test_refuses_another_hardsigmoid(old: str, new: str, reason: str) -> None:
    assert refuses(FuseHardSwish(), graph(HARDSIGMOID.replace(old, new))) == reason


@pytest.mark.parametrize("tensor", ["a", "c", "m"])
def test_refuses_a_shared_intermediate(tensor: str) -> None:
    text = HARDSWISH.replace("] y)", "] y, float[1, 4, 3, 3] z)")
    text = text.replace('["act.div"]', f'[other] z = Neg({tensor}) ["act.div"]')
    reason = refuses(FuseHardSwish(), graph(text))
    assert reason == f"intermediate '{tensor}' is also used by 'other'"


@pytest.mark.parametrize("tensor", ["a", "c", "m"])
def test_refuses_an_intermediate_that_is_an_output(tensor: str) -> None:
    text = HARDSWISH.replace("] y)", f"] y, float[1, 4, 3, 3] {tensor})")
    reason = refuses(FuseHardSwish(), graph(text))
    assert reason == f"intermediate '{tensor}' is an output of the graph"


def test_refuses_a_hardsigmoid_that_is_used_elsewhere() -> None:
    text = HARDSIGMOID.replace("] y)", "] y, float[1, 4, 3, 3] s)")
    assert refuses(FuseHardSwish(), graph(text)) == "intermediate 's' is an output of the graph"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Clip(a, zero, six)", "Clip(a, , six)"),
        ("Clip(a, zero, six)", "Clip(a, zero)"),
        ("Mul(x, c)", "Mul(a, c)"),
        ("Mul(x, c)", "Mul(c, c)"),
        ("Div(m, six)", "Div(six, m)"),
        ("Div(m, six)", "Div(m, x)"),
    ],
)
def test_ignores_what_only_resembles_it(old: str, new: str) -> None:
    ignores(FuseHardSwish(), graph(HARDSWISH.replace(old, new)))


def test_ignores_the_hardsigmoid_of_another_tensor() -> None:
    text = HARDSIGMOID.replace('["act.mul"]', '[abs] z = Abs(x) ["act.mul"]')
    ignores(FuseHardSwish(), graph(text.replace("Mul(x, s)", "Mul(z, s)")))


def test_refuses_constants_that_raise_the_rank() -> None:
    """`[1, 1, 1, 1]` makes a matrix four-dimensional; HardSwish would not."""
    model = graph("""
        g (float[3, 4] x) => (float[1, 1, 3, 4] y)
        <float[1, 1, 1, 1] three = {3}, float zero = {0}, float six = {6}> {
            a = Add(x, three)
            c = Clip(a, zero, six)
            m = Mul(x, c)
            y = Div(m, six)
        }
    """)
    _, report = FuseHardSwish()(model)
    assert not report.changed


def test_fires_where_the_operator_set_has_its_long_name() -> None:
    """ONNX calls its own domain `ai.onnx` and the empty string alike."""
    model = graph(HARDSWISH)
    model.opset_import[0].domain = "ai.onnx"
    rewritten, _ = fires(FuseHardSwish(), model)
    assert operators(rewritten) == ["HardSwish"]
