"""What does nothing at inference is dropped; what may do something stays."""

import pytest
from rewriting import fires, graph, initializers, leaves_alone, operators, refuses

from mbv3c.passes.drop_dead import drop_dead

DROPOUT = """
    g (float[1, 4] x) => (float[1, 4] y) {
        [first] a = Relu(x)
        [drop] d = Dropout(a)
        [last] y = Neg(d)
    }
"""


def test_drops_identity() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y) {
            [first] a = Identity(x)
            [act] b = Relu(a)
            [last] y = Identity(b)
        }
    """)
    rewritten, report = fires(drop_dead, model, tolerance=0)
    assert operators(rewritten) == ["Relu"]
    assert report.matched == ("first", "last")


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_drops_dropout(opset: int) -> None:
    rewritten, report = fires(drop_dead, graph(DROPOUT, opset), tolerance=0)
    assert operators(rewritten) == ["Relu", "Neg"]
    assert report.matched == ("drop",)


def test_drops_dropout_that_says_it_is_not_training() -> None:
    text = DROPOUT.replace("Dropout(a)", "Dropout(a, ratio, training)")
    text = text.replace("4] y) {", "4] y) <float ratio = {0.2}, bool training = {0}> {")
    rewritten, _ = fires(drop_dead, graph(text), tolerance=0)
    assert operators(rewritten) == ["Relu", "Neg"]
    assert initializers(rewritten) == {}


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


def test_refuses_a_dropout_whose_mask_is_used() -> None:
    text = DROPOUT.replace("d = Dropout", "d, mask = Dropout").replace(
        "4] y)", "4] y, float[1, 4] m)"
    )
    text = text.replace("[last]", "m = Cast <to = 1> (mask) [last]")
    assert refuses(drop_dead, graph(text)) == "the mask of Dropout is used"


def test_refuses_a_dropout_whose_mask_is_an_output() -> None:
    text = DROPOUT.replace("d = Dropout", "d, mask = Dropout").replace(
        "4] y)", "4] y, bool[1, 4] mask)"
    )
    assert refuses(drop_dead, graph(text)) == "the mask of Dropout is used"


def test_refuses_a_dropout_in_training_mode() -> None:
    text = DROPOUT.replace("Dropout(a)", "Dropout(a, , training)")
    text = text.replace("4] y) {", "4] y) <bool training = {1}> {")
    assert refuses(drop_dead, graph(text)) == "Dropout may be in training mode"


def test_refuses_a_dropout_whose_mode_is_unknown() -> None:
    text = DROPOUT.replace("Dropout(a)", "Dropout(a, , training)")
    text = text.replace("[first]", "training = Not(evaluating) [first]")
    text = text.replace("4] y) {", "4] y) <bool evaluating = {1}> {")
    assert refuses(drop_dead, graph(text)) == "Dropout may be in training mode"


def test_an_identity_between_input_and_output_stays() -> None:
    leaves_alone(drop_dead, graph("g (float[4] x) => (float[4] y) { y = Identity(x) }"))


@pytest.mark.parametrize("name", ["", "[drop]"])
def test_a_dropout_between_input_and_output_stays(name: str) -> None:
    leaves_alone(drop_dead, graph(f"g (float[4] x) => (float[4] y) {{ {name} y = Dropout(x) }}"))


def test_leaves_a_clean_graph_alone() -> None:
    leaves_alone(drop_dead, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
