"""A pass under a prover: what passes stays, what fails leaves no trace."""

import numpy as np
import onnx_ir as ir
import pytest

from mbv3c.passes import PIPELINE, Refusal
from mbv3c.passes.drop_dead import drop_dead
from mbv3c.passes.proving import run_proved
from mbv3c.passes.report import Change, ProofVerdict, Prover
from tests.onnx_text import graph
from tests.passes.planted import drop_activations
from tests.passes.rewriting import operators
from tests.passes.test_rewrite import FuseScales, chain

SOUND = ProofVerdict(0.0, 1e-5)
WRONG = ProofVerdict(0.5, 1e-5, "off by a half")


def prover(*verdicts: ProofVerdict) -> tuple[Prover, list[Change]]:
    """Return a prover that gives these verdicts one after the other, and what it was asked."""
    asked: list[Change] = []

    def give(change: Change) -> ProofVerdict:
        asked.append(change)
        return verdicts[len(asked) - 1]

    return give, asked


def test_every_match_is_judged_by_itself() -> None:
    decide, asked = prover(SOUND, SOUND)
    rewritten, report = run_proved(FuseScales(), graph(chain(2, 3, 5)), decide)
    assert operators(rewritten) == ["Mul"]
    assert [proof.verdict for proof in report.proofs] == [SOUND, SOUND]
    assert tuple(proof.node for proof in report.proofs) == report.matched
    assert [operators(change.before) for change in asked] == [["Mul", "Mul", "Identity"]] * 2
    assert [operators(change.after) for change in asked] == [["Mul", "Identity"]] * 2
    assert not any(change.whole_graph for change in asked)


def test_the_verdict_changes_nothing_of_the_result() -> None:
    model = graph(chain(2, 3, 5))
    assert run_proved(FuseScales(), model, prover(SOUND, SOUND)[0])[0] == FuseScales()(model)[0]


def test_what_fails_is_refused_and_the_graph_is_the_one_given() -> None:
    model = graph(chain(2, 3))
    given = model.SerializeToString()
    rewritten, report = run_proved(FuseScales(), model, prover(WRONG)[0])
    assert rewritten is model
    assert model.SerializeToString() == given
    assert not report.changed
    assert report.matched == ()
    assert report.refused == (Refusal("block1.mul", "failed its proof: off by a half"),)
    assert [proof.verdict for proof in report.proofs] == [WRONG]
    assert report.nodes_before == report.nodes_after == 2


def test_a_failure_leaves_no_trace_for_the_matches_after_it() -> None:
    """Were the discarded nodes still users of a tensor, the next match would be refused."""
    rewritten, report = run_proved(FuseScales(), graph(chain(2, 3, 5)), prover(WRONG, SOUND)[0])
    assert operators(rewritten) == ["Mul", "Mul"]
    assert len(report.matched) == len(report.refused) == 1

    class AfterTheFirst(FuseScales):
        def check(self, match: object) -> str | None:
            return "the first stays" if match.scalars["a"] == 2 else None  # type: ignore[attr-defined]

    expected, _ = AfterTheFirst()(graph(chain(2, 3, 5)))
    assert rewritten.SerializeToString() == expected.SerializeToString()


def test_other_passes_are_judged_as_a_whole() -> None:
    model = graph("g (float[4] x) => (float[4] y) { dead = Neg(x) y = Relu(x) }")
    decide, asked = prover(SOUND)
    rewritten, report = run_proved(drop_dead, model, decide)
    assert operators(rewritten) == ["Relu"]
    assert [(proof.node, proof.verdict) for proof in report.proofs] == [("drop_dead", SOUND)]
    assert asked == [Change(model, rewritten, whole_graph=True)]


def test_other_passes_are_rolled_back_as_a_whole() -> None:
    model = graph("g (float[4] x) => (float[4] y) { y = HardSwish(x) }")
    rewritten, report = run_proved(drop_activations, model, prover(WRONG)[0])
    assert rewritten is model
    assert (report.matched, report.changed) == ((), False)
    assert report.refused == (Refusal("g", "failed its proof: off by a half"),)


def test_a_pass_that_changes_nothing_is_not_judged() -> None:
    model = graph("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    decide, asked = prover()
    assert [run_proved(one_pass, model, decide)[1].proofs for one_pass in PIPELINE] == [()] * len(
        PIPELINE
    )
    assert asked == []


def ends(change: Change) -> tuple[list[str], set[str]]:
    """Return inputs and initialisers of the model before; the one after takes the same inputs."""
    names = [value.name for value in change.before.graph.input]
    assert names == [value.name for value in change.after.graph.input]
    return names, {tensor.name for tensor in change.before.graph.initializer}


def test_constants_come_along_and_are_no_inputs() -> None:
    text = chain(2, 3).replace('["block0', 'k = Constant <value_float = 3.0> () ["block0')
    decide, asked = prover(SOUND)
    run_proved(FuseScales(), graph(text.replace("t1, k1", "t1, k")), decide)
    assert ends(asked[0]) == (["x"], {"k0"})
    assert operators(asked[0].before)[0] == "Constant"


@pytest.mark.parametrize(
    ("above", "wanted"),
    [
        # Shapes are known: the cut begins right above the match.
        ("n = Neg(x) w = Abs(n)", (["w"], {"k0", "k1"})),
        # The shape of w is not: the cut begins further up.
        ("n = Neg(x) s = Abs(shape) w = Reshape(n, s)", (["n"], {"k0", "k1", "shape"})),
    ],
)
def test_the_cut_begins_where_tensors_can_be_fed(
    above: str, wanted: tuple[list[str], set[str]]
) -> None:
    text = chain(2, 3).replace("Mul(x, k0)", "Mul(w, k0)").replace('["block0', f'{above} ["block0')
    text = text.replace("float[4, 8] y", "float[m, n] y")
    model = graph(text, shape=np.array([4, 8], np.int64))
    decide, asked = prover(SOUND)
    run_proved(FuseScales(), model, decide)
    assert ends(asked[0]) == wanted


def test_a_default_of_an_input_is_an_input() -> None:
    text = chain(2, 3).replace("float[4, 8] x", "float[4, 8] x, float d")
    text = text.replace("Mul(x, k0)", "Mul(w, k0)").replace('["block0', 'w = Add(x, d) ["block0')
    decide, asked = prover(SOUND)

    class FuseAdded(FuseScales):
        patterns = (lambda op, x, d, a, b: op.Mul(op.Mul(op.Add(x, d), a), b),)

        def build(self, op: ir.tape.Tape, match: object) -> ir.Value:
            return op.op("Neg", [match.values["x"]])  # type: ignore[attr-defined]

    run_proved(FuseAdded(), graph(text, d=np.array(5, np.float32)), decide)
    assert ends(asked[0]) == (["x", "d"], {"k0", "k1"})
