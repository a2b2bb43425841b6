"""Costs on the emulated Cortex-A76: the sum of kernels is the whole network's.

These tests need the emulator: `mbv3c doctor --fetch`.
"""

from pathlib import Path

import onnx
import pytest

from mbv3c.costs.types import OUTSIDE, added
from mbv3c.errors import UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.precision import FP16, FP32, INT8, Precision
from mbv3c.search.prune import Cutter
from mbv3c.targets import find_target
from mbv3c.targets.costs import costs_of, time_resource
from tests.costs.networks import block

TARGET = find_target("arm_cpu:cortex-a76")
NEAR = 0.02


def additive(models: list[onnx.ModelProto], precision: Precision, folder: Path) -> list[str]:
    """Compare the last network as a whole with its layers; return what was said on the way."""
    said: list[str] = []
    costs = costs_of(models, TARGET, precision, folder, said.append)
    (whole,) = costs_of(models[-1:], TARGET, precision, folder, said.append, whole=True)
    for cost in (*costs, whole):
        assert cost.kind == "emulated"
        assert added(cost.layers)["instructions"] == cost.resources["instructions"]
        assert cost.layers[-1].key == OUTSIDE
    summed, counted = costs[-1].resources, whole.resources
    assert not costs[-1].whole
    assert whole.whole
    assert summed["instructions"] == pytest.approx(counted["instructions"], rel=NEAR)
    assert {name: counted[name] for name in ("weights", "memory", "parameters")} == {
        name: summed[name] for name in ("weights", "memory", "parameters")
    }
    return said


def test_layers_add_up_to_the_whole(tmp_path: Path) -> None:
    network = block(expand=40, hidden=16)
    additive([network], FP32, tmp_path)
    again: list[str] = []
    costs_of([network], TARGET, FP32, tmp_path, again.append)
    assert again == []


def test_what_nothing_tells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing here emulates host_cpu"):
        costs_of([block()], find_target("host_cpu"), FP32, tmp_path, lambda step: None)
    with pytest.raises(UsageError, match="nothing here tells what a layer costs on mcu"):
        costs_of([block()], find_target("mcu"), INT8, tmp_path, lambda step: None)


def test_time_is_counted_in_instructions() -> None:
    assert time_resource(TARGET, FP16) == "instructions"


@pytest.mark.parametrize("precision", [FP32, FP16, INT8], ids=str)
def test_layers_of_a_network_add_up(precision: Precision, tmp_path: Path) -> None:
    network = build_model(ModelSpec("small", width=0.35, resolution=64, classes=10))
    cutter = Cutter(network)
    place = next(site for site in cutter.sites if site.kind == "hidden")
    cuts = [cutter.cut({place: range(count)}) for count in (240, 160)]
    said = additive([network, *cuts], precision, tmp_path)
    assert not any("by itself" in step or "one by one" in step for step in said)
