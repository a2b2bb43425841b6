"""What no output needs is dropped."""

from mbv3c.passes.drop_dead import drop_dead
from tests.onnx_text import graph
from tests.passes.rewriting import fires, initializers, leaves_alone, operators


def test_drops_nodes_and_initialisers_that_no_output_needs() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y) <float used = {2}, float unused = {3}> {
            [dead] a = Mul(x, unused)
            [also_dead] b = Neg(a)
            [alive] y = Mul(x, used)
        }
    """)
    rewritten, report = fires(drop_dead, model, tolerance=0)
    assert operators(rewritten) == ["Mul"]
    assert list(initializers(rewritten)) == ["used"]
    assert report.matched == ("dead", "also_dead")


def test_dropping_only_an_initialiser_is_a_change() -> None:
    model = graph("g (float[4] x) => (float[4] y) <float unused = {3}> { y = Neg(x) }")
    rewritten, report = drop_dead(model)
    assert report.changed
    assert initializers(rewritten) == {}
    assert not drop_dead(rewritten)[1].changed


def test_keeps_an_input_that_nothing_uses() -> None:
    model = graph(
        "g (float[4] x, float[4] z) => (float[4] y) { [n] y = Neg(x) [dead] d = Neg(z) }"
    )
    rewritten, _ = drop_dead(model)
    assert [value.name for value in rewritten.graph.input] == ["x", "z"]


def test_leaves_a_clean_graph_alone() -> None:
    leaves_alone(drop_dead, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
