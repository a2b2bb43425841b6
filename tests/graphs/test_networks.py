"""MobileNetV2, MnasNet and networks of one's own: counts, weights, files, and what is refused."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import UsageError
from mbv3c.graphs.architecture import Architecture, Block
from mbv3c.graphs.architecture_file import architecture_text, read_architecture_file
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import Counts, count
from mbv3c.graphs.networks import CHAINS, SMALL, chain
from mbv3c.graphs.recognition import Recognized, recognize
from mbv3c.graphs.spec import ModelSpec, architecture, completed
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, session
from mbv3c.passes import run_pipeline

# 224 pixels, 1000 classes; MobileNetV2 and MnasNet-B1 counted in torchvision's models, MnasNet-A1
# in timm's. Those of 0.35 to 0.75 are sums over the tables, by a script of their own.
PUBLISHED = [
    ("mobilenet_v2", 0.35, 1_677_128, 59_285_808),
    ("mobilenet_v2", 0.5, 1_968_680, 97_131_840),
    ("mobilenet_v2", 0.75, 2_636_424, 209_069_792),
    ("mobilenet_v2", 1.0, 3_504_872, 300_774_272),
    ("mobilenet_v2", 1.4, 6_108_776, 582_195_824),
    ("mnasnet_a1", 0.75, 2_912_278, 223_448_480),
    ("mnasnet_a1", 1.0, 3_887_038, 311_579_072),
    ("mnasnet_b1", 1.0, 4_383_312, 314_415_872),
]


def bare(spec: ModelSpec) -> onnx.ModelProto:
    """Build a network without measuring statistics, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mbv3c.graphs.builder.initialize", lambda *_: None)
        return build_model(spec)


@pytest.mark.parametrize(("network", "width", "params", "madds"), PUBLISHED)
def test_counts_are_the_published_ones(
    network: str, width: float, params: int, madds: int
) -> None:
    assert count(bare(completed({"network": network, "width": width}))) == Counts(params, madds)


def test_raspp_has_the_published_parameters() -> None:
    """The paper has 2.11 M with 19 classes; the multiply-adds are those of 224 pixels."""
    spec = completed({"network": "mobilenet_v2", "head": "raspp", "classes": 19})
    assert count(bare(spec)) == Counts(2_113_043, 498_379_776)


@pytest.mark.parametrize("network", CHAINS)
@pytest.mark.parametrize("head", ["classify", "lraspp", "raspp", "ssdlite"])
def test_it_is_recognised_raw_and_optimized(network: str, head: str) -> None:
    given = {"network": network, "width": 0.5, "head": head, "classes": 7}
    model = bare(completed(given))
    found = recognize(model)
    assert isinstance(found, Recognized)
    assert (found.network, found.variant, found.width, found.width_rule) == (
        network,
        None,
        0.5,
        None,
    )
    assert (found.head, found.classes) == (head, 7)
    assert found.dilated == (head in ("lraspp", "raspp"))


def test_the_signal_reaches_the_logits_and_passes_keep_it() -> None:
    """One small network with all that MobileNetV3 lacks: ReLU6 in blocks, sigmoid in gates."""
    spec = completed({"network": "mnasnet_a1", "width": 0.35, "resolution": 32, "classes": 10})
    model = build_model(spec)
    inputs = parity_inputs(spec.input_shape)
    logits = [run(session(model), x)[0] for x in inputs]
    assert np.std(logits, axis=0).mean() > 0.2
    rewritten = run_pipeline(model)[0]
    assert recognize(rewritten) == recognize(model)
    assert not any(node.op_type == "BatchNormalization" for node in rewritten.graph.node)
    for x, wanted in zip(inputs, logits, strict=True):
        np.testing.assert_allclose(run(session(rewritten), x)[0], wanted, atol=1e-4)


def test_dilation_keeps_stride_16() -> None:
    plain, dilated = (chain(CHAINS["mobilenet_v2"], dilated=on) for on in (False, True))
    assert plain.strides()[-1] == 32
    assert dilated.strides()[-1] == 16
    assert [block.dilation for block in dilated.blocks] == [1] * 14 + [2] * 3


OWN = Architecture(
    stem=8,
    blocks=(
        Block(3, 16, 8, 0, "relu6", 2),
        Block(5, 24, 16, 8, "hardswish", 2),
        Block(3, 40, 16, 8, "hardswish", 1),
    ),
    last_conv=48,
    hidden=0,
    gate="sigmoid",
)


def test_an_architecture_goes_to_a_file_and_back(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    for network in (OWN, SMALL, chain(CHAINS["mnasnet_a1"], 0.75)):
        path.write_text(architecture_text(network))
        assert read_architecture_file(path) == network


def test_a_network_of_ones_own_is_built(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(architecture_text(OWN))
    spec = completed({"architecture": path, "resolution": 32, "classes": 5})
    assert architecture(spec) == OWN
    model = build_model(spec)
    assert model.graph.name == "tiny"
    assert run(session(model), parity_inputs(spec.input_shape)[0])[0].shape == (1, 5)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    described = json.loads(metadata["mbv3c.architecture"])
    assert described["blocks"][1]["kernel"] == 5
    assert "mbv3c.variant" not in metadata


def test_channels_that_are_all_alike_keep_finite_weights() -> None:
    """The one channel of the hidden layer is 0 for every image."""
    block = Block(3, 1, 1, 0, "relu6", 1)
    layers = Architecture(1, (block,), 1, 1, "relu6", "sigmoid")
    model = build_model(completed({"layers": layers, "resolution": 32, "classes": 2}))
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert all(np.isfinite(array).all() for array in arrays if array.dtype == np.float32)


_WIDE = asdict(Block(3, 8192, 8192, 0, "relu", 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": 0}, "'stem' of the network is 0; it must be 1 to 8192"),
        ({"stem": True}, "'stem' of the network is True"),
        (
            {"blocks": 100 * [dict(_WIDE)]},
            "its layers have .* weights, and an ONNX file holds 536,870,912",
        ),
        ({"gate": "tanh"}, "'gate' of the network is 'tanh'; it must be hardsigmoid or sigmoid"),
        ({"colour": 1}, "the network has the unknown field 'colour'"),
        ({"last_conv": 0, "hidden": 8}, "'hidden' needs a 'last_conv'"),
        ({"blocks": []}, "'blocks' must be a list of 1 to 100 blocks"),
        ({"blocks": [3]}, "block 1 must be an object"),
        ({"blocks": [{"kernel": 3}]}, "block 1 lacks 'expand'"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(json.loads(architecture_text(OWN)) | change))
    with pytest.raises(UsageError, match=message):
        read_architecture_file(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"stem": 1e999}'])
def test_what_is_no_architecture_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="is no architecture"):
        read_architecture_file(tmp_path / "x.json")
    with pytest.raises(UsageError, match="no such file"):
        read_architecture_file(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "resnet"}, "unknown network 'resnet'; known: mobilenet_v3, mobilenet_v2"),
        ({"network": "mobilenet_v2", "variant": "small"}, "leave --variant out"),
        ({"network": "mobilenet_v2", "minimalistic": True}, "leave --minimalistic out"),
        ({"network": "mobilenet_v2", "width": 1.5}, "width must be 0.35 to 1.4, got 1.5"),
        ({"layers": OWN, "width": 0.5}, "leave --width out: the architecture says all layers"),
        ({"layers": OWN, "head": "ssdlite"}, "end at stride 32; those of this architecture end"),
        ({"layers": OWN, "head": "lraspp"}, "end at stride 16; those of this architecture end"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        completed(given)
