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
