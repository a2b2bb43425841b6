from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from mbv3c.errors import ModelError
from mbv3c.search.channels import Channels, Uncut, sites
from tests.costs.networks import block
from tests.onnx_text import random
from tests.search.networks import NETWORKS, around, network


def summary(model: onnx.ModelProto) -> list[tuple[str, str, int]]:
    return [(site.kind, site.name, site.channels) for site in sites(model)]


@pytest.mark.parametrize(
    ("name", "kinds", "joined"),
    [
        ("mobilenet_v2", (1, 16, 7, 1, 0), ("features.4.project.conv", 3)),
        ("large", (1, 14, 5, 1, 1), ("features.0.conv", 2)),  # block 1 is added to the stem
        ("small", (1, 10, 4, 1, 1), ("features.4.project.conv", 5)),  # 40 and 48 are both 16
        ("mnasnet_a1", (1, 15, 7, 1, 0), ("features.7.project.conv", 4)),
    ],
)
def test_every_site_is_found(name: str, kinds: tuple[int, ...], joined: tuple[str, int]) -> None:
    found = sites(network(name))
    order = ("stem", "expansion", "bottleneck", "tail", "hidden")
    assert tuple(sum(site.kind == kind for site in found) for kind in order) == kinds
    assert len(found) == sum(kinds)
    channels = Channels(network(name))
    site, writers = joined
    assert len(channels.written[channels.names[site]]) == writers
    middles = [gate for site in found for gate in site.gates]
    assert len(middles) == sum(
        node.name.endswith("se.pool") for node in network(name).graph.node
    )  # every gate follows something, and is no site
    assert not {site.name for site in found} & set(middles)
    assert [each.name for each in channels.uncut()] == [network(name).graph.node[-1].name]


@pytest.mark.parametrize("name", NETWORKS)
def test_sites_do_not_depend_on_names(name: str) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(network(name))
    for node in renamed.graph.node:
        node.name = ""
    found, given = sites(renamed), sites(network(name))
    assert [(a.kind, a.channels, len(a.gates)) for a in found] == [
        (b.kind, b.channels, len(b.gates)) for b in given
    ]
    assert len({site.name for site in found}) == len(found)


REFUSED: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "Concat": (
        "d = Conv(a, w1) b = Concat<axis=1>(a, d)",
        16,
        {"w1": random(8, 8, 1, 1)},
        "Concat b mixes its channels, or may do so",
    ),
    "depth multiplier": (
        "b = Conv<group=8>(a, w1)",
        16,
        {"w1": random(16, 1, 1, 1)},
        "b has 8 groups and is not depthwise with one filter a channel",
    ),
    "channel shuffle": (
        "r = Reshape(a, s1) t = Transpose<perm=[0,2,1,3,4]>(r) b = Reshape(t, s2)",
        8,
        {"s1": np.array([1, 2, 4, 4, 4]), "s2": np.array([1, 8, 4, 4])},
        "Reshape r mixes channels with something else",
    ),
    "softmax over channels": ("b = Softmax<axis=1>(a)", 8, {}, "Softmax b mixes its channels"),
    "shape arithmetic": (
        "s = Shape(a) b = Reshape(a, s)",
        8,
        {},
        "Shape s mixes its channels, or may do so",
    ),
    "sum of one map with each": (
        "d = Conv(a, w1) b = Add(a, d)",
        8,
        {"w1": random(1, 8, 1, 1)},
        "",
    ),
    "shared weights": (
        "d = Conv(a, w1) b = Conv(d, w1)",
        8,
        {"w1": random(8, 8, 1, 1)},
        "the weight 'w1' belongs to several layers",
    ),
    "mean over channels": (
        "m = ReduceMean<axes=[1]>(a) b = Mul(a, m)",
        8,
        {},
        "ReduceMean m is over channels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_mixes_channels_keeps_them_and_says_why(case: str) -> None:
    middle, width, initializers, reason = REFUSED[case]
    model = around(middle, width, **initializers)
    locked = {each.name: each for each in Channels(model).uncut()}
    if reason:
        assert isinstance(locked["c"], Uncut)
        assert locked["c"].reason.startswith(reason)
        assert "c" not in {site.name for site in sites(model)}
    else:  # one channel stays one and is broadcast; the others can be cut
        assert summary(model) == [("stem", "c", 8), ("bottleneck", "d", 1)]


def test_a_weight_that_is_an_output_keeps_its_channels() -> None:
    model = block(expand=32)
    shown = helper.make_tensor_value_info("expand.weight", onnx.TensorProto.FLOAT, (32, 16, 1, 1))
    model.graph.output.append(shown)
    reasons = {each.name: each.reason for each in Channels(model).uncut()}
    assert reasons["expand"] == "it is in the model's output 'expand.weight'"
    assert {site.name for site in sites(model)} == {"hidden"}


def test_a_quantized_model_is_refused() -> None:
    model = around(
        "q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z)",
        s=np.float32(0.1),
        z=np.int8(0),
    )
    with pytest.raises(ModelError, match="give the model before its quantization"):
        sites(model)
