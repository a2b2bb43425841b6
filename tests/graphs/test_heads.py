"""LR-ASPP: its size, its wiring and what comes out."""

import numpy as np
import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import count, tensor_shapes
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, session
from mbv3c.passes.global_pool import MeanToGlobalPool


@pytest.fixture(scope="module")
def segmenter() -> onnx.ModelProto:
    return build_model(ModelSpec(head="lraspp", classes=21))


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def test_parameters_are_torchvisions(segmenter: onnx.ModelProto) -> None:
    assert count(segmenter).params == 3_221_538


def test_output_has_the_resolution_of_the_input(segmenter: onnx.ModelProto) -> None:
    shapes = tensor_shapes(segmenter)
    assert shapes["logits"] == (1, 21, 224, 224)
    assert shapes["features.16.act.div.output"] == (1, 960, 14, 14)


@pytest.mark.parametrize(
    ("variant", "block", "channels"), [("large", "features.4", 40), ("small", "features.2", 24)]
)
def test_low_branch_stands_on_the_first_features_at_stride_8(
    variant: str, block: str, channels: int
) -> None:
    model = build_model(ModelSpec(variant, head="lraspp", resolution=96, classes=5))
    source = node(model, "classifier.low").input[0]
    assert source.startswith(f"{block}.project")
    assert tensor_shapes(model)[source] == (1, channels, 12, 12)


def test_head_has_torchs_epsilon_and_the_backbone_its_own(segmenter: onnx.ModelProto) -> None:
    def epsilon(name: str) -> float:
        return node(segmenter, name).attribute[0].f

    assert epsilon("classifier.cbr.bn") == pytest.approx(1e-5)
    assert epsilon("features.16.bn") == pytest.approx(1e-3)


def test_logits_differ_between_inputs_pixels_and_classes() -> None:
    model = build_model(ModelSpec("small", head="lraspp", resolution=96, classes=5, batch=2))
    opened = session(model)
    logits = np.stack([run(opened, x)[0] for x in parity_inputs((2, 3, 96, 96))])
    assert logits.shape == (5, 2, 5, 96, 96)
    for axis in (0, 2, 4):
        assert logits.std(axis=axis).mean() > 0.05


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown head 'deeplab'; known: classify, lraspp"):
        ModelSpec(head="deeplab")


def pooled(pool: str, resolution: int, width: float = 0.35) -> onnx.ModelProto:
    return build_model(
        ModelSpec(
            "small",
            width,
            head="lraspp",
            lraspp_pool=pool,
            resolution=resolution,
            classes=2,
        )
    )


def logits(model: onnx.ModelProto) -> np.ndarray:
    side = tensor_shapes(model)["logits"][-1]
    return run(session(model), parity_inputs((1, 3, side, side))[0])[0]


@pytest.mark.parametrize("resolution", [96, 224])
def test_the_papers_pooling_is_global_on_a_map_below_its_window(resolution: int) -> None:
    paper, whole = pooled("paper", resolution), pooled("global", resolution)
    assert count(paper) == count(whole)
    np.testing.assert_allclose(logits(paper), logits(whole), atol=1e-5)
    rewritten, report = MeanToGlobalPool()(paper)
    assert report.matched == ("classifier.scale.pool",)
    np.testing.assert_array_equal(logits(rewritten), logits(whole))


def test_the_papers_pooling_sees_one_window_of_a_larger_map() -> None:
    """At 1024 pixels the map is 64x64 and has room for one window of 49x49, at its top left."""
    paper, whole = pooled("paper", 1024), pooled("global", 1024)
    assert count(paper) == count(whole)
    assert tensor_shapes(paper)["classifier.scale.pool.output"] == (1, 192, 1, 1)
    got, other = logits(paper), logits(whole)
    assert got.shape == other.shape == (1, 2, 1024, 1024)
    assert np.abs(got - other).max() > 1e-3 * np.ptp(other)


def test_the_papers_gate_is_upsampled_to_the_map() -> None:
    """At 1280 pixels the map is 80x80: two windows each way, 16 rows and 20 columns apart."""
    paper = pooled("paper", 1280)
    shapes = tensor_shapes(paper)
    assert shapes["classifier.scale.pool.output"] == (1, 192, 2, 2)
    assert shapes["classifier.scale.upsample.output"] == (1, 128, 80, 80)
    assert shapes["logits"] == (1, 2, 1280, 1280)
    features = node(paper, "classifier.scale.pool").input[0]
    names = [features, "classifier.scale.pool.output", "classifier.scale.gate.output"]
    names.append("classifier.scale.upsample.output")
    paper.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    x = parity_inputs((1, 3, 1280, 1280))[0]
    _, maps, means, gate, upsampled = run(session(paper), x)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        window = maps[0, :, 16 * row : 16 * row + 49, 20 * column : 20 * column + 49]
        np.testing.assert_allclose(means[0, :, row, column], window.mean(axis=(1, 2)), atol=1e-4)
    for corner in (0, -1):
        np.testing.assert_array_equal(upsampled[0, :, corner, corner], gate[0, :, corner, corner])
    np.testing.assert_allclose(
        upsampled[0, :, 39:41, 39:41].mean(axis=(1, 2)), gate[0].mean(axis=(1, 2)), atol=1e-5
    )


def test_the_pooling_of_lraspp_belongs_to_it() -> None:
    assert ModelSpec(head="lraspp", lraspp_pool="paper").name == (
        "mobilenet_v3_large_lraspp_paper_pool"
    )
    with pytest.raises(UsageError, match="lraspp-pool belongs to head lraspp, not to classify"):
        ModelSpec(lraspp_pool="paper")
    with pytest.raises(UsageError, match="unknown lraspp-pool 'max'; known: global, paper"):
        ModelSpec(head="lraspp", lraspp_pool="max")
