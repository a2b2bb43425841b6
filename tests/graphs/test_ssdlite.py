"""SSDLite: its size, its wiring, its decoding, and what comes out."""

import json
from itertools import pairwise
from math import exp, log

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import UsageError
from mbv3c.graphs.anchors import anchors
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import count, tensor_shapes
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, run_reference, session


def spec(
    variant: str = "large", width: float = 1.0, classes: int = 91, **more: object
) -> ModelSpec:
    return ModelSpec(variant, width, head="ssdlite", resolution=320, classes=classes, **more)


@pytest.fixture(scope="module")
def detector() -> onnx.ModelProto:
    return build_model(spec())


@pytest.fixture(scope="module")
def little() -> onnx.ModelProto:
    return build_model(spec("small", 0.5, classes=5, batch=2))


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def test_parameters_and_multiply_adds_are_torchvisions(detector: onnx.ModelProto) -> None:
    """torchvision's documentation gives 3,440,060 parameters and 0.583 billion multiply-adds."""
    counts = count(detector)
    assert counts.params == 3_440_060
    assert round(counts.madds / 1e9, 3) == 0.583


@pytest.mark.parametrize(
    ("variant", "width", "channels"),
    [
        ("large", 1.0, [672, 480, 512, 256, 256, 128]),
        ("small", 1.0, [288, 288, 512, 256, 256, 128]),
        ("large", 0.75, [504, 384, 384, 192, 192, 96]),
        ("small", 0.35, [104, 96, 179, 89, 89, 44]),
    ],
)
def test_the_six_maps(variant: str, width: float, channels: list[int]) -> None:
    model = build_model(spec(variant, width, classes=2))
    shapes = tensor_shapes(model)
    sources = [node(model, f"head.classes.{i}.depthwise.conv").input[0] for i in range(6)]
    assert [node(model, f"head.boxes.{i}.depthwise.conv").input[0] for i in range(6)] == sources
    assert [shapes[name] for name in sources] == [
        (1, wide, side, side) for wide, side in zip(channels, (20, 10, 5, 3, 2, 1), strict=True)
    ]
    block = {"large": 13, "small": 9}[variant]
    assert sources[0].startswith(f"features.{block}.expand.act.")


def test_the_tail_is_reduced_though_nobody_says_so(detector: onnx.ModelProto) -> None:
    shapes = tensor_shapes(detector)
    assert shapes["features.15.project.conv.weight"] == (80, 480, 1, 1)
    assert shapes["features.16.conv.weight"] == (480, 80, 1, 1)


def test_every_batchnorm_has_the_same_epsilon(detector: onnx.ModelProto) -> None:
    norms = [n for n in detector.graph.node if n.op_type == "BatchNormalization"]
    assert len(norms) == 46 + 4 * 3 + 6 * 2
    for norm in norms:
        assert norm.attribute[0].f == pytest.approx(1e-3)


def test_outputs_and_metadata(detector: onnx.ModelProto) -> None:
    shapes = tensor_shapes(detector)
    assert [output.name for output in detector.graph.output] == ["boxes", "scores"]
    assert shapes["boxes"] == (1, 3234, 4)
    assert shapes["scores"] == (1, 3234, 91)
    metadata = {entry.key: entry.value for entry in detector.metadata_props}
    assert json.loads(metadata["mbv3c.detector"]) == {"boxes": "boxes", "scores": "scores"}
    assert json.loads(metadata["mbv3c.class_axes"]) == {"boxes": None, "scores": 2}
    assert metadata["mbv3c.mean"] == metadata["mbv3c.std"] == "[0.5, 0.5, 0.5]"


def watched(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copied


def test_a_cell_of_a_map_predicts_its_own_anchors(little: onnx.ModelProto) -> None:
    """Anchor 6 (20 y + x) + a of the first map takes channels a K to (a + 1) K at (y, x)."""
    names = ["head.classes.concat.output", "head.classes.0.predict.output"]
    names.append("head.classes.2.predict.output")
    x = parity_inputs((2, 3, 320, 320))[0]
    _, _, rows, first, third = run(session(watched(little, *names)), x)
    for image in range(2):
        for y, column, a in ((0, 0, 0), (3, 7, 5), (19, 19, 2)):
            np.testing.assert_array_equal(
                rows[image, 6 * (20 * y + column) + a], first[image, 5 * a : 5 * a + 5, y, column]
            )
        at = 6 * (400 + 100 + 5 * 4 + 1) + 3
        np.testing.assert_array_equal(rows[image, at], third[image, 15:20, 4, 1])


def test_decoding_is_that_of_the_box_coder(little: onnx.ModelProto) -> None:
    """Against the formula in float64, box by box."""
    x = parity_inputs((2, 3, 320, 320))[0]
    boxes, _, deltas = run(session(watched(little, "head.boxes.concat.output")), x)
    centres, sizes = anchors((20, 10, 5, 3, 2, 1), 320)
    for at in range(0, 3234, 77):
        dx, dy, dw, dh = map(float, deltas[1, at])
        cx, cy = centres[at, 0] + dx / 10 * sizes[at, 0], centres[at, 1] + dy / 10 * sizes[at, 1]
        w = sizes[at, 0] * exp(min(dw / 5, log(1000 / 16)))
        h = sizes[at, 1] * exp(min(dh / 5, log(1000 / 16)))
        wanted = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        np.testing.assert_allclose(boxes[1, at], wanted, rtol=1e-5, atol=1e-3)


def test_a_huge_size_is_limited(little: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(little)
    bias = next(t for t in model.graph.initializer if t.name == "head.boxes.5.predict.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(24, 1e4, np.float32), bias.name))
    boxes = run(session(model), parity_inputs((2, 3, 320, 320))[0])[0][:, -6:]
    _, sizes = anchors((20, 10, 5, 3, 2, 1), 320)
    wanted = np.broadcast_to(sizes[-6:] * 1000 / 16, (2, 6, 2))
    np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], wanted, rtol=1e-4)


def test_scores_are_probabilities_that_depend_on_input_and_place(little: onnx.ModelProto) -> None:
    opened = session(little)
    scores = np.stack([run(opened, x)[1] for x in parity_inputs((2, 3, 320, 320))])
    np.testing.assert_allclose(scores.sum(axis=-1), 1, rtol=1e-5)
    starts = np.cumsum([0, 2400, 600, 150, 54, 24, 6])
    for start, end in pairwise(starts):
        assert scores[:, :, start:end].std(axis=0).mean() > 0.02
    winners = np.bincount(scores.argmax(axis=-1).ravel(), minlength=5) / scores[..., 0].size
    assert 0.02 < winners.min() < winners.max() < 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_stays_small_on_the_way_to_the_last_map(seed: int) -> None:
    """Seeded weights that amplify rounding would make every parity check worthless."""
    model = build_model(spec("small", seed=seed))
    for boxes, scores in run_reference(model, parity_inputs((1, 3, 320, 320))[:2]):
        assert boxes.spread < 5e-6
        assert scores.spread < 1e-5


def test_wrong_combinations_are_refused() -> None:
    with pytest.raises(UsageError, match=r"resolution 224 is not .* ssdlite; choose 320"):
        ModelSpec(head="ssdlite")
    with pytest.raises(UsageError, match="dilated does not go with head ssdlite"):
        spec(dilated=True)
    with pytest.raises(UsageError, match="needs at least 2 classes: the first one is the backgr"):
        spec(classes=1)
