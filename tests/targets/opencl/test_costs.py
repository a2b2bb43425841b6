"""Costs on mobile GPUs, by the cost model."""

from pathlib import Path

import pytest

from mbv3c.costs.types import added
from mbv3c.precision import FP32
from mbv3c.targets import find_target
from mbv3c.targets.costs import costs_of
from tests.costs.networks import block


def test_launches_add_up_and_fewer_channels_cost_less(tmp_path: Path) -> None:
    target, said = find_target("mobile_gpu:mali"), list[str]()
    networks = [block(expand=32), block(expand=512)]
    narrow, wide = costs_of(networks, target, FP32, tmp_path, said.append)
    for cost in (narrow, wide):
        assert cost.kind == "estimated"
        assert added(cost.layers)["cycles"] == pytest.approx(cost.resources["cycles"])
    assert narrow.resources["cycles"] < wide.resources["cycles"]
    assert narrow.resources["weights"] < wide.resources["weights"]
    keys = [{layer.key for layer in cost.layers} for cost in (narrow, wide)]
    assert set() < keys[0] & keys[1] < keys[0]  # a key has both of a kernel's channel counts
    (whole,) = costs_of(networks[1:], target, FP32, tmp_path, said.append, whole=True)
    assert whole.resources == wide.resources
    assert not any("by itself" in step or "one by one" in step for step in said)
