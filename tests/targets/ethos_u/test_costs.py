"""Costs on Ethos-U: what vela says of a network that was resized, and of the network itself."""

from pathlib import Path

import onnx
import pytest

from mbv3c.costs.types import added
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.precision import INT8
from mbv3c.search.prune import Cutter
from mbv3c.targets import find_target
from mbv3c.targets.costs import costs_of
from tests.costs.networks import block

NEAR = 0.02


def additive(models: list[onnx.ModelProto], name: str, folder: Path) -> list[str]:
    """Compare the last network with what vela says of it as it would be compiled."""
    target, said = find_target(name), list[str]()
    costs = costs_of(models, target, INT8, folder, said.append)
    (whole,) = costs_of(models[-1:], target, INT8, folder, said.append, whole=True)
    for cost in (*costs, whole):
        assert cost.kind == "estimated"
        assert added(cost.layers)["cycles"] == cost.resources["cycles"]
    for resource in ("cycles", "weights", "memory"):
        asked, compiled = costs[-1].resources[resource], whole.resources[resource]
        assert asked == pytest.approx(compiled, rel=NEAR), resource
    assert [layer.key for layer in costs[-1].layers] == [layer.key for layer in whole.layers]
    return said


def test_layers_add_up_to_the_whole(tmp_path: Path) -> None:
    networks = [block(expand=32), block(expand=48), block(expand=40, hidden=16)]
    said = additive(networks, "npu:ethos-u55-128", tmp_path)
    assert not any("by itself" in step or "one by one" in step for step in said)
    again: list[str] = []
    costs = costs_of(networks, find_target("npu:ethos-u55-128"), INT8, tmp_path, again.append)
    assert again == []
    (expansion,) = (layer for layer in costs[2].layers if "expand" in layer.nodes)
    assert expansion.key == "Conv2D 1x16x16x16 40x1x1x16 → 1x16x16x40"
    assert expansion.nodes == ("expand", "expand.relu")


@pytest.mark.parametrize("name", ["npu:ethos-u55-128", "npu:ethos-u65-256", "npu:ethos-u85-256"])
def test_layers_of_a_network_add_up(name: str, tmp_path: Path) -> None:
    network = build_model(ModelSpec("small", width=0.5, resolution=64, classes=10))
    cutter = Cutter(network)
    places = [site for site in cutter.sites if site.kind in ("expansion", "hidden")]
    cuts = [{place: range(place.channels // 16 * 8)} for place in (places[3], places[-1])]
    both = {place: kept for cut in cuts for place, kept in cut.items()}
    models = [network, *(cutter.cut(cut) for cut in cuts), cutter.cut(both)]
    said = additive(models, name, tmp_path)
    assert not any("by itself" in step or "one by one" in step for step in said)
