"""What computes nothing is dropped; what may do something stays."""

import pytest

from mbv3c.passes.drop_noops import drop_noops
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, leaves_alone, operators, refuses

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
    rewritten, report = fires(drop_noops, model, tolerance=0)
    assert operators(rewritten) == ["Relu"]
    assert report.matched == ("first", "last")


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_drops_dropout(opset: int) -> None:
    rewritten, report = fires(drop_noops, graph(DROPOUT, opset), tolerance=0)
    assert operators(rewritten) == ["Relu", "Neg"]
    assert report.matched == ("drop",)


def test_drops_dropout_that_says_it_is_not_training() -> None:
    text = DROPOUT.replace("Dropout(a)", "Dropout(a, ratio, training)")
    text = text.replace("4] y) {", "4] y) <float ratio = {0.2}, bool training = {0}> {")
    rewritten, _ = fires(drop_noops, graph(text), tolerance=0)
    assert operators(rewritten) == ["Relu", "Neg"]


def test_refuses_a_dropout_whose_mask_is_used() -> None:
    text = DROPOUT.replace("d = Dropout", "d, mask = Dropout").replace(
        "4] y)", "4] y, float[1, 4] m)"
    )
    text = text.replace("[last]", "m = Cast <to = 1> (mask) [last]")
    assert refuses(drop_noops, graph(text)) == "the mask of Dropout is used"


def test_refuses_a_dropout_whose_mask_is_an_output() -> None:
    text = DROPOUT.replace("d = Dropout", "d, mask = Dropout").replace(
        "4] y)", "4] y, bool[1, 4] mask)"
    )
    assert refuses(drop_noops, graph(text)) == "the mask of Dropout is used"


def test_refuses_a_dropout_in_training_mode() -> None:
    text = DROPOUT.replace("Dropout(a)", "Dropout(a, , training)")
    text = text.replace("4] y) {", "4] y) <bool training = {1}> {")
    assert refuses(drop_noops, graph(text)) == "Dropout may be in training mode"


def test_refuses_a_dropout_whose_mode_is_unknown() -> None:
    text = DROPOUT.replace("Dropout(a)", "Dropout(a, , training)")
    text = text.replace("[first]", "training = Not(evaluating) [first]")
    text = text.replace("4] y) {", "4] y) <bool evaluating = {1}> {")
    assert refuses(drop_noops, graph(text)) == "Dropout may be in training mode"


def test_an_identity_between_input_and_output_stays() -> None:
    leaves_alone(drop_noops, graph("g (float[4] x) => (float[4] y) { y = Identity(x) }"))


@pytest.mark.parametrize("name", ["", "[drop]"])
def test_a_dropout_between_input_and_output_stays(name: str) -> None:
    leaves_alone(drop_noops, graph(f"g (float[4] x) => (float[4] y) {{ {name} y = Dropout(x) }}"))


def test_leaves_a_clean_graph_alone() -> None:
    leaves_alone(drop_noops, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


@pytest.mark.parametrize("opset", [13, 17])
def test_drops_a_cast_to_the_same_type(opset: int) -> None:
    model = graph(
        """
        g (float[1, 4] x) => (float[1, 4] y) {
            [half] h = Cast <to = 10> (x)
            [again] i = Cast <to = 10> (h)
            [act] r = Relu(i)
            [back] y = Cast <to = 1> (r)
        }
        """,
        opset,
    )
    rewritten, report = fires(drop_noops, model, tolerance=0)
    assert operators(rewritten) == ["Cast", "Relu", "Cast"]
    assert report.matched == ("again",)


def test_a_cast_between_input_and_output_stays() -> None:
    reason = refuses(drop_noops, graph("g (float[4] x) => (float[4] y) { y = Cast <to = 1> (x) }"))
    assert reason == "Cast connects an input of the graph with an output"


def test_ignores_a_cast_to_another_type() -> None:
    ignores(drop_noops, graph("g (float[4] x) => (double[4] y) { y = Cast <to = 11> (x) }"))


def test_what_a_branch_returns_keeps_its_names() -> None:
    branch = "{} = {} () => (float[1, 4] {}, float[1, 4] {}) {{ {} = {} (x)  {} = Identity ({}) }}"
    branches = ", ".join(
        branch.format(key, key, *pair, pair[0], op, pair[1], pair[0])
        for key, op, pair in (
            ("then_branch", "Relu", ("a", "b")),
            ("else_branch", "Neg", ("c", "d")),
        )
    )
    leaves_alone(
        drop_noops,
        graph(f"""
            g (float[1, 4] x) => (float[1, 4] y, float[1, 4] z) <bool k = {{1}}> {{
                y, z = If (k) <{branches}>
            }}
        """),
    )


def test_two_outputs_of_one_tensor_keep_their_names() -> None:
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] y, float[1, 4] z) {
            a = Relu (x)  y = Identity (a)  z = Identity (a)
        }
    """)
    rewritten, _ = fires(drop_noops, model, tolerance=0)
    assert operators(rewritten) == ["Relu", "Identity"]
