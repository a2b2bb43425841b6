"""Costs on this machine: times of kernels, which are not taken while it is busy."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mbv3c.costs.database import CostTable
from mbv3c.costs.types import OUTSIDE
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.timing.latency import Turns, processor_name, take_turns
from mbv3c.precision import FP32
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.costs import costs_of, time_resource
from mbv3c.targets.library import timed_costs
from mbv3c.targets.library.around import Around
from mbv3c.targets.library.costs import AROUND
from tests.costs.networks import block

TARGET = find_target("host_cpu")


def in_order(names: list[str], runs: int, *, kernel: Callable[[int], float]) -> Turns:
    """Return runs in which the calls of some names cost what a function of their place says."""
    run = [(name, kernel(place)) for place, name in enumerate(names)]
    return Turns({"kernels": [[run] * 2] * 5, "whole": [[0.5] * 2] * 5}, 0, runs)


def test_kernels_are_timed_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries run, and what their calls took is replaced."""
    ran: list[list[str]] = []

    def turns(sides: dict[str, Any], cpus: list[int], runs: int) -> Turns:
        (run,) = take_turns(sides, cpus, 1).blocks["kernels"][0]
        ran.append([name for name, us in run if us > 0])
        return in_order(ran[-1], runs, kernel=lambda place: place + 1.0)

    monkeypatch.setattr(timed_costs, "take_turns", turns)
    table = CostTable(tmp_path, backend_of(TARGET).coster(TARGET, FP32).context)
    table.add({AROUND: asdict(Around(1.0, 0.25, 0.0, 0.0))})  # of 6 kernels
    (cost,) = costs_of([block()], TARGET, FP32, tmp_path, lambda step: None)
    *kernels, outside = cost.layers
    assert (cost.kind, cost.whole, time_resource(TARGET, FP32)) == ("measured", False, "us")
    assert (outside.key, outside.resources) == (OUTSIDE, {"us": 1.0 + 0.25 * len(kernels)})
    own = [place + 1.0 for place, name in enumerate(ran[0]) if not name.startswith("vm.")]
    assert [layer.resources["us"] for layer in kernels] == own[: len(kernels)]
    assert processor_name() in table.path.read_text()


def test_times_of_a_busy_machine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = in_order(["one", "two", "copy"], 200, kernel=float)
    assert timed_costs._quiet_times(steady, ["one", "two"]) == [0.0, 1.0]
    interrupted = Turns(steady.blocks, 11, 200)
    uneven = Turns({"kernels": [[[("one", us)]] for us in (10.0, 10.0, 13.0, 13.0, 13.0)]}, 0, 200)
    with pytest.raises(ToolError, match="this machine is busy: 11 interruptions of 200 runs"):
        timed_costs._quiet_times(interrupted, ["one", "two"])
    with pytest.raises(ToolError, match=r"from 10.0 to 13.0 us \(quartiles\); .* ask again"):
        timed_costs._quiet_times(uneven, ["one"])


def test_what_does_not_run_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv3c.targets.library.target.native_arch", lambda: "riscv64")
    with pytest.raises(UsageError, match="host_cpu:avx2 does not run on this machine"):
        costs_of([block()], find_target("host_cpu:avx2"), FP32, tmp_path, lambda step: None)
