"""All rewrites in their order, on both whole networks."""

from collections import Counter

import onnx

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes import PIPELINE, PassReport
from tests.onnx_text import graph
from tests.passes.rewriting import initializers, operators, ports

# A random network amplifies fp32 rounding to this much of its logits' range.
TOLERANCE = 1e-5

BEFORE = {
    "mobilenet_v3_small": {
        "Conv": 52,
        "BatchNormalization": 34,
        "Add": 34,
        "Clip": 28,
        "Mul": 28,
        "Div": 28,
        "Relu": 14,
        "GlobalAveragePool": 10,
        "Flatten": 1,
        "Gemm": 2,
    },
    "mobilenet_v3_large": {
        "Conv": 62,
        "BatchNormalization": 46,
        "Add": 39,
        "Clip": 29,
        "Mul": 29,
        "Div": 29,
        "Relu": 19,
        "GlobalAveragePool": 9,
        "Flatten": 1,
        "Gemm": 2,
    },
}
AFTER = {
    "mobilenet_v3_small": {
        "Conv": 52,
        "HardSwish": 19,
        "Relu": 14,
        "GlobalAveragePool": 10,
        "Clip": 9,
        "Mul": 9,
        "Add": 6,
        "Flatten": 1,
        "Gemm": 2,
    },
    "mobilenet_v3_large": {
        "Conv": 62,
        "HardSwish": 21,
        "Relu": 19,
        "GlobalAveragePool": 9,
        "Clip": 8,
        "Mul": 8,
        "Add": 10,
        "Flatten": 1,
        "Gemm": 2,
    },
}
# What every other pass matches in the graphs that we build: nothing.
MATCHES = {
    "mobilenet_v3_small": {
        "fold_batchnorm": 34,
        "fuse_hardsigmoid": 9,
        "fuse_hardswish": 19,
        "fold_se": 9,
    },
    "mobilenet_v3_large": {
        "fold_batchnorm": 46,
        "fuse_hardsigmoid": 8,
        "fuse_hardswish": 21,
        "fold_se": 8,
    },
}


def optimized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Run every pass, and check what each says of itself."""
    reports = []
    for rewrite in PIPELINE:
        before = model
        model, report = rewrite(before)
        assert (report.nodes_before, report.nodes_after) == (
            len(before.graph.node),
            len(model.graph.node),
        )
        assert report.changed == (model.SerializeToString() != before.SerializeToString())
        assert report.changed or not report.matched
        assert ports(model) == ports(before)
        reports.append(report)
    return model, reports


def test_histograms(network: onnx.ModelProto) -> None:
    name = network.graph.name
    assert dict(Counter(operators(network))) == BEFORE[name]
    rewritten, reports = optimized(network)
    assert dict(Counter(operators(rewritten))) == AFTER[name]
    matches = {report.name: len(report.matched) for report in reports if report.matched}
    assert matches == MATCHES[name]
    assert [report.refused for report in reports] == [()] * len(PIPELINE)


def test_the_network_computes_the_same(network: onnx.ModelProto) -> None:
    rewritten, _ = optimized(network)
    onnx.checker.check_model(rewritten, full_check=True)
    before, after = session(network), session(rewritten)
    for x in parity_inputs((1, 3, 96, 96)):
        assert error_of_range(run(after, x)[0], run(before, x)[0]) <= TOLERANCE


def test_a_second_run_changes_nothing(network: onnx.ModelProto) -> None:
    rewritten, _ = optimized(network)
    again, reports = optimized(rewritten)
    assert again is rewritten
    assert not any(report.changed or report.refused for report in reports)


def test_blocks_keep_their_names(small: onnx.ModelProto) -> None:
    rewritten, _ = optimized(small)
    nodes = {node.name: node.op_type for node in rewritten.graph.node}
    assert nodes["features.4.expand.conv"] == "Conv"
    assert nodes["features.4.expand.act"] == "HardSwish"
    assert nodes["features.4.se.reduce"] == "Conv"
    assert nodes["features.4.se.gate"] == "Clip"
    assert "features.4.se.expand.bias" in initializers(rewritten)
    assert "features.4.expand.conv.weight" in initializers(rewritten)
    given = {node.name for node in small.graph.node}
    assert all(node.name in given or f"{node.name}.add" in given for node in rewritten.graph.node)


def test_nothing_unused_is_left(small: onnx.ModelProto) -> None:
    rewritten, _ = optimized(small)
    used = {name for node in rewritten.graph.node for name in node.input}
    assert set(initializers(rewritten)) <= used


def test_what_is_no_hardswish_stays() -> None:
    """(x + 1) / 2, clipped, is what one widely copied article calls hard-sigmoid."""
    model = graph("""
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
        <float one = {1}, float zero = {0}, float two = {2}> {
            a = Add(x, one)
            c = Clip(a, zero, two)
            m = Mul(x, c)
            y = Div(m, two)
        }
    """)
    rewritten, reports = optimized(model)
    assert rewritten is model
    reasons = [refusal.reason for report in reports for refusal in report.refused]
    assert reasons == ["Add's constant must be 3, got 1"]


def test_a_detector_is_rewritten_once_and_computes_the_same() -> None:
    model = build_model(ModelSpec("small", head="ssdlite", resolution=320, classes=5))
    rewritten, reports = optimized(model)
    onnx.checker.check_model(rewritten, full_check=True)
    matches = {report.name: len(report.matched) for report in reports if report.matched}
    # Of the last map, which is one pixel, both heads only need a reshape; the extra blocks have
    # three BatchNormalizations each, the heads one for each map; there is no hidden layer.
    wanted = {"merge_reshapes": 2, "fold_batchnorm": 34 + 4 * 3 + 6 * 2, "fuse_hardswish": 18}
    assert matches == {**MATCHES["mobilenet_v3_small"], **wanted}
    assert not any(report.refused for report in reports)
    x = parity_inputs((1, 3, 320, 320))[0]
    after, before = run(session(rewritten), x), run(session(model), x)
    for ours, theirs in zip(after, before, strict=True):
        assert error_of_range(ours, theirs) <= TOLERANCE
    again, reports = optimized(rewritten)
    assert again is rewritten
    assert not any(report.changed or report.refused for report in reports)
