"""Names of torchvision and timm, by rule."""

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.graphs.weights.files import weights_of
from mbv3c.graphs.weights.names import name_map
from tests.graphs.weights.state_dicts import COUNTER, Tensors, ssdlite, timm, torchvision

LIBRARIES = {"torchvision": torchvision, "timm": timm}


def names(tensors: Tensors) -> list[str]:
    return [name for name, _ in tensors if not name.endswith(COUNTER)]


def variant(network: onnx.ModelProto) -> str:
    return network.graph.name.rpartition("_")[2]


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_tensor_has_its_place(network: onnx.ModelProto, library: str) -> None:
    """Both libraries construct their modules in the order of our graph."""
    theirs = names(LIBRARIES[library](variant(network)))
    convention, mapped = name_map(weights_of(network), theirs)
    assert convention == library
    assert list(mapped.values()) == theirs


def test_our_own_names(network: onnx.ModelProto) -> None:
    own = list(weights_of(network))
    assert name_map(own, own) == ("mbv3c", {name: name for name in own})


@pytest.mark.parametrize(
    ("own", "as_torchvision", "as_timm"),
    [
        ("features.0.conv.weight", "features.0.0.weight", "conv_stem.weight"),
        ("features.0.bn.running_var", "features.0.1.running_var", "bn1.running_var"),
        # The first block has no expansion.
        (
            "features.1.depthwise.conv.weight",
            "features.1.block.0.0.weight",
            "blocks.0.0.conv_dw.weight",
        ),
        (
            "features.1.project.conv.weight",
            "features.1.block.1.0.weight",
            "blocks.0.0.conv_pw.weight",
        ),
        ("features.1.project.bn.bias", "features.1.block.1.1.bias", "blocks.0.0.bn2.bias"),
        # The second has one, and no SE.
        (
            "features.2.expand.conv.weight",
            "features.2.block.0.0.weight",
            "blocks.1.0.conv_pw.weight",
        ),
        ("features.2.project.bn.bias", "features.2.block.2.1.bias", "blocks.1.0.bn3.bias"),
        # The fifth has both.
        (
            "features.5.depthwise.bn.weight",
            "features.5.block.1.1.weight",
            "blocks.2.1.bn2.weight",
        ),
        (
            "features.5.se.reduce.bias",
            "features.5.block.2.fc1.bias",
            "blocks.2.1.se.conv_reduce.bias",
        ),
        (
            "features.5.se.expand.bias",
            "features.5.block.2.fc2.bias",
            "blocks.2.1.se.conv_expand.bias",
        ),
        (
            "features.5.project.conv.weight",
            "features.5.block.3.0.weight",
            "blocks.2.1.conv_pwl.weight",
        ),
        ("features.16.conv.weight", "features.16.0.weight", "blocks.6.0.conv.weight"),
        ("features.16.bn.weight", "features.16.1.weight", "blocks.6.0.bn1.weight"),
        ("classifier.0.bias", "classifier.0.bias", "conv_head.bias"),
        ("classifier.3.weight", "classifier.3.weight", "classifier.weight"),
    ],
)
def test_names_as_they_are_published(
    large: onnx.ModelProto, own: str, as_torchvision: str, as_timm: str
) -> None:
    for library, theirs in (("torchvision", as_torchvision), ("timm", as_timm)):
        _, mapped = name_map(weights_of(large), names(LIBRARIES[library]("large")))
        assert mapped[own] == theirs


def test_squeeze_in_a_block_without_expansion(small: onnx.ModelProto) -> None:
    own = "features.1.se.reduce.weight"
    _, mapped = name_map(weights_of(small), names(torchvision("small")))
    assert mapped[own] == "features.1.block.1.fc1.weight"
    _, mapped = name_map(weights_of(small), names(timm("small")))
    assert mapped[own] == "blocks.0.0.se.conv_reduce.weight"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrapper_of_the_whole_network(small: onnx.ModelProto, prefix: str) -> None:
    theirs = [prefix + name for name in names(timm("small"))]
    assert list(name_map(weights_of(small), theirs)[1].values()) == theirs


@pytest.mark.parametrize("lost", ["conv_stem.", "blocks.1.0.", "blocks.0.", "blocks.5."])
def test_what_is_lost_does_not_shift_the_others(small: onnx.ModelProto, lost: str) -> None:
    theirs = names(timm("small"))
    _, mapped = name_map(weights_of(small), [n for n in theirs if not n.startswith(lost)])
    assert list(mapped.values()) == theirs


def test_the_tensors_of_lraspp() -> None:
    published = {
        "features.0.conv.weight": "backbone.0.0.weight",
        "features.1.depthwise.bn.bias": "backbone.1.block.0.1.bias",
        "features.1.project.conv.weight": "backbone.1.block.1.0.weight",
        "features.2.conv.weight": "backbone.2.0.weight",
        "classifier.cbr.conv.weight": "classifier.cbr.0.weight",
        "classifier.cbr.bn.running_mean": "classifier.cbr.1.running_mean",
        "classifier.scale.weight": "classifier.scale.1.weight",
        "classifier.low.bias": "classifier.low_classifier.bias",
        "classifier.high.weight": "classifier.high_classifier.weight",
    }
    assert name_map(published, published.values()) == ("torchvision", published)


@pytest.mark.parametrize("name", ["large", "small"])
def test_every_tensor_of_ssdlite_has_its_place(name: str) -> None:
    spec = ModelSpec(name, head="ssdlite", resolution=320, classes=91)
    theirs = names(ssdlite(name))
    weights = weights_of(build_model(spec))
    convention, mapped = name_map(weights, theirs)
    assert convention == "torchvision"
    assert list(mapped.values()) == theirs
    assert [array.shape for array in weights.values()] == [
        shape for key, shape in ssdlite(name) if not key.endswith(COUNTER)
    ]


def test_the_tensors_of_ssdlite_as_they_are_published() -> None:
    published = {
        "features.0.conv.weight": "backbone.features.0.0.0.weight",
        "features.1.depthwise.bn.bias": "backbone.features.0.1.block.0.1.bias",
        "features.1.project.conv.weight": "backbone.features.0.1.block.1.0.weight",
        "features.2.expand.conv.weight": "backbone.features.0.2.0.weight",
        "features.2.depthwise.conv.weight": "backbone.features.1.0.1.0.weight",
        "features.2.se.reduce.bias": "backbone.features.1.0.2.fc1.bias",
        "features.2.project.conv.weight": "backbone.features.1.0.3.0.weight",
        "features.3.expand.bn.weight": "backbone.features.1.1.block.0.1.weight",
        "features.4.depthwise.conv.weight": "backbone.features.1.2.block.0.0.weight",
        "features.4.project.conv.weight": "backbone.features.1.2.block.1.0.weight",
        "features.5.conv.weight": "backbone.features.1.3.0.weight",
        "extra.3.depthwise.bn.running_var": "backbone.extra.3.1.1.running_var",
        "head.classes.0.depthwise.conv.weight": (
            "head.classification_head.module_list.0.0.0.weight"
        ),
        "head.boxes.5.predict.bias": "head.regression_head.module_list.5.1.bias",
    }
    assert name_map(published, published.values()) == ("torchvision", published)


def test_nothing_to_go_by(small: onnx.ModelProto) -> None:
    own = list(weights_of(small))
    assert name_map(own, []) == ("mbv3c", {name: name for name in own})
