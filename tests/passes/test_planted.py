"""Single rewrites judged by onnxruntime: sound ones pass, planted wrong ones are found."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c import pipeline
from mbv3c.parity.proof import prove
from mbv3c.passes import PIPELINE, Pass, PassReport
from mbv3c.passes.fuse_clip import FuseClip
from mbv3c.passes.proving import run_proved
from mbv3c.passes.rewrite import Rewrite
from tests.onnx_text import graph
from tests.passes.planted import (
    AnyMean,
    ClipForgotten,
    GateOfAnything,
    GateOverWidth,
    HardSwishOf29,
    HardSwishOfAnything,
    ShiftForgotten,
    WrongEpsilon,
    WrongSide,
    drop_activations,
)
from tests.passes.rewriting import error, operators
from tests.passes.spellings import GATES, HARDSWISHES, HEADS, PADDINGS, SQUEEZES, block
from tests.passes.test_pipeline import MATCHES, TOLERANCE


def model(body: str, stored: str = "", shape: str = "1, 2, 4, 4") -> onnx.ModelProto:
    return graph(f"g (float[{shape}] x) => (float[{shape}] y) <{stored}> {{ {body} }}")


def proved(
    passes: tuple[Pass, ...], given: onnx.ModelProto
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Run passes under onnxruntime's judgement."""
    reports = []
    for one_pass in passes:
        given, report = run_proved(one_pass, given, prove)
        assert len(report.proofs) >= len(report.matched) or not isinstance(one_pass, Rewrite)
        reports.append(report)
    return given, reports


def failures(reports: list[PassReport]) -> list[tuple[str, str]]:
    """Return pass and node of every failed proof; each of them is refused for that reason."""
    failed = [
        (report.name, proof.node)
        for report in reports
        for proof in report.proofs
        if not proof.verdict.passed
    ]
    refused = [
        refusal
        for report in reports
        for refusal in report.refused
        if refusal.reason.startswith("failed its proof: ")
    ]
    assert len(refused) == len(failed)
    return failed


def with_planted(broken: Pass) -> tuple[Pass, ...]:
    """Return the pipeline with a broken rewrite in the place of the one that it derives from."""
    replaced = type(broken).__mro__[1]
    return tuple(broken if type(one) is replaced else one for one in PIPELINE)


def test_the_networks_prove_green(network: onnx.ModelProto) -> None:
    rewritten, steps = pipeline.optimize(network, proving=True)
    plain, _ = pipeline.optimize(network)
    assert rewritten == plain
    proofs = {step.report.name: len(step.report.proofs) for step in steps if step.report.proofs}
    assert proofs == MATCHES[network.graph.name] | {"drop_dead": 1}
    assert [step.failed for step in steps] == [[]] * len(PIPELINE)
    for step in steps:
        for proof in step.report.proofs:
            assert proof.verdict.max_error_of_range <= proof.verdict.allowed <= 1e-5


def test_a_broken_rewrite_is_found_at_every_node_of_small(
    small: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PIPELINE", with_planted(HardSwishOf29()))
    rewritten, steps = pipeline.optimize(small, proving=True)
    failed = [proof.node for step in steps for proof in step.failed]
    assert len(failed) == MATCHES["mobilenet_v3_small"]["fuse_hardswish"]
    assert failed[0] == "features.0.act"
    assert "HardSwish" not in operators(rewritten)
    assert operators(rewritten).count("Conv") == 52
    assert steps[-1].max_error_of_range <= TOLERANCE
    again, _ = pipeline.optimize(rewritten, proving=True)
    assert again is rewritten


CUBE = """
    g (float[1, 6, 6, 6] x) => (float[1, 6, 6, 6] y) {
        [pool] p = GlobalAveragePool(x)
        [reduce] r = Conv(p, w1, b)
        [relu] a = Relu(r)
        [expand] e = Conv(a, w2, b)
        [gate] g = HardSigmoid <alpha = 0.16666667> (e)
        [scale] y = Mul(x, g)
    }
"""


def cube() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((6, 6, 1, 1)).astype(np.float32) for name in ("w1", "w2")}
    return graph(CUBE, **arrays, b=rng.standard_normal(6).astype(np.float32))


def strided(pads: list[int]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    text = """
        g (float[1, 3, 9, 9] x) => (float[1, 4, h, w] y) {
            [pad] p = Pad(x, pads)
            [conv] y = Conv <strides = [2, 2]> (p, w)
        }
    """
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    return graph(text, pads=np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64), w=weight)


NEAR = "[a] a = Add(x, three) [c] c = Clip(a, zero, six) [m] m = Mul(x, c) [d] y = Div(m, six)"
NEAR_GATE = "[a] a = Add(x, three) [c] c = Clip(a, zero, six) [d] y = Div(c, six)"
CONSTANTS = "float three = {3}, float zero = {0}, float six = {6}"


@pytest.mark.parametrize(
    ("broken", "given", "node"),
    [
        (HardSwishOf29(), model(NEAR, CONSTANTS), "d"),
        (HardSwishOfAnything(), model(NEAR, CONSTANTS.replace("{3}", "{2.9}")), "d"),
        (HardSwishOfAnything(), model(NEAR, CONSTANTS.replace("{3}", "{2.999}")), "d"),
        (HardSwishOfAnything(), model(NEAR, CONSTANTS.replace("{6}", "{4}")), "d"),
        (HardSwishOfAnything(), model(NEAR, CONSTANTS.replace("{0}", "{-1}")), "d"),
        (GateOfAnything(), model(NEAR_GATE, CONSTANTS.replace("{6}", "{5.999}")), "d"),
        (ClipForgotten(), model("a = Relu(x) [y] y = Min(a, six)", "float six = {6}"), "y"),
        (ClipForgotten(), model("a = Relu(x) [y] y = Min(a, six)", "float six = {99}"), "y"),
        (WrongSide(), strided([0, 0, 1, 1]), "conv"),
        (WrongSide(), strided([0, 1, 1, 0]), "conv"),
        (AnyMean(), model("[m] a = ReduceMean <axes = [1, 2]> (x) y = Add(x, a)"), "m"),
        (AnyMean(), model("[m] a = ReduceMean <axes = [3]> (x) y = Add(x, a)"), "m"),
        (GateOverWidth(), cube(), "scale"),
        (ShiftForgotten(), cube(), "scale"),
    ],
)
def test_a_broken_rewrite_is_found_named_and_rolled_back(
    broken: Rewrite, given: onnx.ModelProto, node: str
) -> None:
    rewritten, report = broken(given)
    assert report.changed  # without a prover it is made
    rewritten, report = run_proved(broken, given, prove)
    assert rewritten is given
    assert failures([report]) == [(broken.name, node)]
    assert [refusal.node for refusal in report.refused] == [node]


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4])
def test_a_wrong_epsilon_is_found(epsilon: float) -> None:
    given = block(norm="BatchNormalization")
    norm = next(node for node in given.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
    rewritten, reports = proved(with_planted(WrongEpsilon()), given)
    assert [name for name, _ in failures(reports)] == ["fold_batchnorm"]
    assert "BatchNormalization" in operators(rewritten)
    assert "HardSwish" in operators(rewritten)
    assert error(given, rewritten) <= TOLERANCE


def test_a_pad_on_both_sides_alike_has_no_wrong_side() -> None:
    _, report = run_proved(WrongSide(), strided([1, 1, 1, 1]), prove)
    assert report.changed


def test_a_broken_pass_that_is_no_rewrite_is_rolled_back() -> None:
    given = block()
    rewritten, report = run_proved(drop_activations, given, prove)
    assert rewritten is given
    assert failures([report]) == [("drop_activations", "drop_activations")]


@settings(max_examples=25, deadline=None)
@given(
    swish=st.sampled_from(sorted(HARDSWISHES)),
    gate=st.sampled_from(sorted(GATES)),
    squeeze=st.sampled_from(sorted(SQUEEZES)),
    padding=st.sampled_from(sorted(PADDINGS)),
    head=st.sampled_from(sorted(HEADS)),
    broken=st.sampled_from([None, HardSwishOf29(), WrongSide(), ShiftForgotten()]),
)
def test_any_mixture_ends_sound(
    swish: str, gate: str, squeeze: str, padding: str, head: str, broken: Pass | None
) -> None:
    """Healthy, the pipeline does what it does without a prover; else all but what is planted."""
    spelled = block(swish, gate, squeeze, padding=padding, head=head)
    passes = PIPELINE if broken is None else with_planted(broken)
    rewritten, reports = proved(passes, spelled)
    assert error(spelled, rewritten) <= TOLERANCE
    if broken is None:
        plain, unjudged = spelled, []
        for one_pass in PIPELINE:
            plain, report = one_pass(plain)
            unjudged.append(report)
        assert rewritten == plain
        assert failures(reports) == []
        assert [r.matched for r in reports] == [r.matched for r in unjudged]
    elif not isinstance(broken, WrongSide):
        assert {name for name, _ in failures(reports)} <= {broken.name}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(np.float16, 2e-3), (np.float32, 1e-5), (np.float64, 1e-12)]
)
def test_the_tolerance_is_that_of_the_type(dtype: type, allowed: float) -> None:
    name = onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    ends = f"{name.lower()}[1, 2, 4, 4]"
    given = graph(
        f"g ({ends} x) => ({ends} y) {{ a = Max(x, low) y = Min(a, high) }}",
        low=np.array(-3, dtype),
        high=np.array(3, dtype),
    )
    _, report = run_proved(FuseClip(), given, prove)
    assert [proof.verdict.allowed for proof in report.proofs] == [allowed]
    assert report.changed


def test_rounding_is_measured_where_it_is_more_than_the_tolerance() -> None:
    """Large sums that cancel: onnxruntime's own folding moves them as much as ours."""
    text = """
        g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            c = Conv(x, w, far)
            y = BatchNormalization(c, one, zero, far, one)
        }
    """
    rng = np.random.default_rng(0)
    given = graph(
        text,
        w=rng.standard_normal((2, 2, 1, 1)).astype(np.float32),
        far=np.full(2, 1e4, np.float32),
        one=np.ones(2, np.float32),
        zero=np.zeros(2, np.float32),
    )
    _, reports = proved(PIPELINE, given)
    (proof,) = next(report.proofs for report in reports if report.name == "fold_batchnorm")
    assert proof.verdict.passed
    assert 1e-5 < proof.verdict.max_error_of_range <= proof.verdict.allowed < 1e-2
