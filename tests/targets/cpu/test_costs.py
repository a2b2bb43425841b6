"""Costs on the emulated Cortex-A76: the sum of kernels is the whole network's.

These tests need the emulator: `mbv3c doctor --fetch`.
"""

from dataclasses import asdict
from pathlib import Path

import onnx
import pytest

from mbv3c.costs.database import CostTable
from mbv3c.costs.types import OUTSIDE, added
from mbv3c.errors import UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.lowering.plan import Elementwise
from mbv3c.lowering.schedules.emit import LINEAR
from mbv3c.precision import FP16, FP32, INT8, Precision
from mbv3c.search.prune import Cutter
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.costs import costs_of, time_resource
from mbv3c.targets.library.around import Around, around
from mbv3c.targets.library.costs import AROUND
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


def test_kernels_cost_what_they_do_in_the_whole(tmp_path: Path) -> None:
    network = block(expand=40, hidden=16)
    table = CostTable(tmp_path, backend_of(TARGET).coster(TARGET, FP32).context)
    table.add({AROUND: asdict(Around(1.0, 0.0, 0.0, 0.0))})  # counted in the long test
    (cost,) = costs_of([network], TARGET, FP32, tmp_path, lambda step: None)
    (whole,) = costs_of([network], TARGET, FP32, tmp_path, lambda step: None, whole=True)
    assert [layer.key for layer in cost.layers] == [layer.key for layer in whole.layers]
    *kernels, outside = cost.layers
    assert (outside.key, outside.resources) == (OUTSIDE, {"instructions": 1.0})
    inside = added(whole.layers[:-1])["instructions"]
    assert added(kernels)["instructions"] == pytest.approx(inside, rel=NEAR)
    again: list[str] = []
    assert costs_of([network], TARGET, FP32, tmp_path, again.append) == [cost]
    assert again == []


def test_what_is_around_kernels_follows_from_four_programs() -> None:
    copy = backend_of(TARGET).kernels(TARGET).elementwise(Elementwise(1, 1, 1, "", False, LINEAR))
    wanted = Around(start=8000.0, call=350.0, tensor=1400.0, block=1900.0)
    found = around(copy, lambda plans: [wanted.of(plan) for plan in plans])
    assert asdict(found) == pytest.approx(asdict(wanted))


def test_what_nothing_tells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"costs on mcu:cortex-m7: the emulated .*compile MODEL"):
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
