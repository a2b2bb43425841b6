"""onnxruntime as the prover of a change: what it compares, on what, and what it says."""

import math

import numpy as np
import onnx
import pytest

from mbv3c.parity.proof import KINDS, prove
from mbv3c.parity.tolerance import PROOF_TOLERANCES, Tolerance
from mbv3c.passes.report import Change


def graph(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


@pytest.mark.parametrize("tolerance", PROOF_TOLERANCES.values())
def test_tolerances_have_reasons(tolerance: Tolerance) -> None:
    assert len(tolerance.reason) > 20


def change(before: str, after: str, whole: bool = False) -> Change:
    models = (graph(f"g (float[1, 40] x) {text}") for text in (before, after))
    return Change(*models, whole_graph=whole)


RELU = "=> (float[1, 40] y) { y = Relu(x) }"


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("=> (float[1, 40] y) { y = Abs(x) }", "of the output's range off on"),
        (
            "=> (float[40] y) <int64[1] f = {40}> { r = Relu(x) y = Reshape(r, f) }",
            "another shape",
        ),
        ("=> (double[1, 40] y) { r = Relu(x) y = Cast <to = 11> (r) }", "another shape or type"),
        ("=> (float[1, 40] y) { r = Relu(x) z = Sub(r, r) y = Div(z, z) }", "not finite"),
    ],
)
def test_what_is_not_the_same(after: str, reason: str, whole: bool) -> None:
    verdict = prove(change(RELU, after, whole))
    assert not verdict.passed
    assert reason in verdict.reason


def test_a_reference_that_is_never_finite_proves_nothing() -> None:
    nan = "=> (float[1, 40] y) { z = Sub(x, x) y = Div(z, z) }"
    assert prove(change(nan, nan)).reason == "onnxruntime gives no finite result to compare with"


def test_what_does_not_run_is_not_proved() -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(change(RELU, RELU).before)
    broken.graph.node[0].op_type = "Relux"
    good = change(RELU, RELU).before
    assert "run what was there" in prove(Change(broken, good, whole_graph=False)).reason
    assert "run what it puts there" in prove(Change(good, broken, whole_graph=False)).reason


def test_the_inputs_reach_both_bends_and_far_beyond() -> None:
    rng = np.random.default_rng(0)
    drawn = {name: [draw(rng, (1, 8, 6, 6)) for draw in draws] for name, draws in KINDS.items()}
    exact = np.unique(np.concatenate([x.ravel() for x in drawn["inputs at -3, 0 and 3"]]))
    beside = [np.nextafter(np.float32(p), np.float32(s)) for p in (-3, 0, 3) for s in (-9, 9)]
    np.testing.assert_array_equal(exact, np.sort([-3, 0, 3, *beside]))
    assert max(np.abs(x).max() for xs in drawn.values() for x in xs) > 200
    means = drawn["inputs around -3, 0 and 3"][1].mean(axis=(2, 3))
    assert np.abs(means).max() > 2
    assert not any(math.isnan(x.sum()) for xs in drawn.values() for x in xs)
