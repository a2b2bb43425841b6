"""If and Loop give way to what they run, where constants decide."""

import pytest

from mbv3c.passes.fold_control_flow import fold_control_flow
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, leaves_alone, operators

IF = """
    g (float[1, 4] x) => (float[1, 4] y) <bool c = {CONDITION}> {
        [outer] r = Abs (x)
        [choice] y = If (c) <
            then_branch = t () => (float[1, 4] a) { a = Neg (r) },
            else_branch = e () => (float[1, 4] b) { q = Sigmoid (x)  b = Mul (q, r) }
        >
    }
"""

LOOP = """
    g (float[1, 4] x) => (float[1, 4] y) <int64 n = {TURNS}, bool c = {1}> {
        [turns] l = Loop (n, c, x) <body = b (int64 i, bool go, float[1, 4] s)
            => (bool go2, float[1, 4] t) {
            go2 = Identity (go)
            f = CastLike (i, s)
            u = Add (s, f)
            t = Sigmoid (u)
        }>
        y = Neg (l)
    }
"""


@pytest.mark.parametrize(
    ("condition", "left"),
    [(1, ["Abs", "Neg", "Identity"]), (0, ["Abs", "Sigmoid", "Mul", "Identity"])],
)
def test_a_branch_takes_the_place_of_an_if(condition: int, left: list[str]) -> None:
    model = graph(IF.replace("CONDITION", str(condition)))
    rewritten, report = fires(fold_control_flow, model, tolerance=0)
    assert [op for op in operators(rewritten) if op != "Abs" or op in left] == left
    assert report.matched == ("choice",)


def test_a_fixed_shape_decides() -> None:
    model = graph("""
        g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) <int64 one = {1}, int64 first = {0}> {
            shape = Shape (x)
            batch = Gather <axis = 0> (shape, first)
            many = Greater (batch, one)
            y = If (many) <
                then_branch = t () => (float[1, 3, 8, 8] a) { a = Relu (x) },
                else_branch = e () => (float[1, 3, 8, 8] b) { b = Sigmoid (x) }
            >
        }
    """)
    rewritten, _ = fires(fold_control_flow, model, tolerance=0)
    assert [op for op in operators(rewritten) if op != "Identity"] == ["Sigmoid"]


def test_an_if_within_an_if() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y) <bool c = {1}, bool d = {0}> {
            y = If (c) <
                then_branch = t () => (float[1, 4] a) {
                    r = Relu (x)
                    a = If (d) <
                        then_branch = t2 () => (float[1, 4] a2) { a2 = Neg (r) },
                        else_branch = e2 () => (float[1, 4] b2) { b2 = Exp (r) }
                    >
                },
                else_branch = e () => (float[1, 4] b) { b = Tanh (x) }
            >
        }
    """)
    rewritten, _ = fires(fold_control_flow, model)
    assert [op for op in operators(rewritten) if op != "Identity"] == ["Relu", "Exp"]


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_loop_is_unrolled(turns: int) -> None:
    rewritten, report = fires(fold_control_flow, graph(LOOP.replace("TURNS", str(turns))))
    assert operators(rewritten).count("Sigmoid") == turns
    assert "Loop" not in operators(rewritten)
    names = [node.name for node in rewritten.graph.node if node.name]
    assert len(set(names)) == len(names)
    assert report.matched == ("turns",)


def test_what_the_turns_of_a_loop_collect() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y, float[3, 1, 4] z) <int64 n = {3}, bool c = {1}> {
            y, z = Loop (n, c, x) <body = b (int64 i, bool go, float[1, 4] s)
                => (bool go, float[1, 4] t, float[1, 4] each) {
                t = Mul (s, s)
                each = Neg (t)
            }>
        }
    """)
    rewritten, _ = fires(fold_control_flow, model)
    assert operators(rewritten).count("Neg") == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """g (float[1, 4] x) => (float[1, 4] y) <float h = {0.0}> {
                m = ReduceMean <keepdims = 0> (x)
                c = Greater (m, h)
                y = If (c) <
                    then_branch = t () => (float[1, 4] a) { a = Relu (x) },
                    else_branch = e () => (float[1, 4] b) { b = Tanh (x) }
                >
            }""",
            "its condition 'c' is computed when the model runs",
        ),
        (
            """g (float[1, 4] x) => (float[1, 4] y)
            <int64 n = {3}, bool c = {1}, float h = {9.0}> {
                y = Loop (n, c, x) <body = b (int64 i, bool go, float[1, 4] s)
                    => (bool go2, float[1, 4] t) {
                    m = ReduceMean <keepdims = 0> (s)
                    go2 = Less (m, h)
                    t = Relu (s)
                }>
            }""",
            "whether it goes on is computed when the model runs",
        ),
        (LOOP.replace("TURNS", "5000"), "5000 turns of 4 nodes are too many"),
    ],
)
def test_what_the_input_decides_stays(text: str, reason: str) -> None:
    (refusal,) = leaves_alone(fold_control_flow, graph(text)).refused
    assert reason in refusal.reason


def test_a_graph_without_control_flow_stays() -> None:
    ignores(fold_control_flow, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


def test_many_turns_of_nothing_are_not_taken() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y) <int64 n = {100000}, bool c = {1}> {
            l = Loop (n, c, x) <body = b (int64 i, bool go, float[1, 4] s)
                => (bool go, float[1, 4] s) { }>
            y = Neg (l)
        }
    """)
    (refusal,) = leaves_alone(fold_control_flow, model).refused
    assert "100000 turns of 0 nodes" in refusal.reason
