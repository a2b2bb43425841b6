"""Costs on a served device: its own table, times that vary, a device that goes away."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mbv3c.costs.database import CostTable
from mbv3c.costs.types import OUTSIDE, added
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.machine import Machine
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.pool import DevicesGoneError, Patience
from mbv3c.execution.device.tracker import Listed
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.precision import FP32
from mbv3c.search.job_answers import Device, costs_on
from mbv3c.targets import backend_of, costs, find_target
from mbv3c.targets.costs import costs_of, measured_on, time_resource
from mbv3c.targets.library import device_costs, timed_costs
from mbv3c.targets.library.around import Around
from mbv3c.targets.library.costs import AROUND
from mbv3c.targets.library.device_costs import DeviceCoster
from mbv3c.tuning.meters import BuiltNetwork
from tests.costs.networks import block
from tests.execution.device.serving import HOST, end, served

TARGET = find_target("host_cpu")
MACHINE = Machine("pi", "x86_64", "a processor", 4, ("performance",), 41.5, number="0123456789ab")
PLACE = Place(Address(HOST, 9))
NETWORK = BuiltNetwork(Path("network"), ("one", "two"))


class Meter:
    """What a device measures: its answers one after the other."""

    def __init__(self, *runs: tuple[float, float], machine: Machine = MACHINE) -> None:
        self.runs, self.asked = iter(runs), 0
        self.pool = self
        self.boards = [self]
        self.machine: Machine | None = machine

    def calls(self, networks: Sequence[BuiltNetwork]) -> dict[BuiltNetwork, Any]:
        """Return blocks whose two calls take turns between two times."""
        self.asked += 1
        times = next(self.runs)
        blocks = [[[("one", us), ("copy", 9.0), ("two", 2 * us)]] for us in times * 3]
        return dict.fromkeys(networks, blocks)

    def wholes(self, networks: Sequence[BuiltNetwork]) -> dict[str, dict[BuiltNetwork, Any]]:
        return {"us": {each: [[400.0, 350.0, 400.0]] for each in networks}}


def coster_with(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> tuple[DeviceCoster, list[str]]:
    """Return what tells costs on a device that answers at once, and what it will say."""
    coster = backend_of(TARGET).coster(TARGET, FP32, PLACE)
    assert isinstance(coster, DeviceCoster)
    said: list[str] = []
    monkeypatch.setattr(coster, "_device", lambda: meter)
    monkeypatch.setattr(coster, "_progress", said.append, raising=False)
    coster.__dict__["machine"] = MACHINE
    return coster, said


def test_times_that_vary_are_measured_again_and_refused_at_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coster, said = coster_with(Meter((100.0, 150.0), (100.0, 101.0)), monkeypatch)
    assert coster.of_network(NETWORK.folder, NETWORK.kernels) == ([100.5, 201.0], 400.0 - 301.5)
    assert said == ["times of pi lie from 300.0 to 450.0 us (quartiles): measuring once more"]
    meter = Meter(*[(100.0, 150.0)] * 4)
    coster, _ = coster_with(meter, monkeypatch)
    with pytest.raises(ToolError, match=r"is busy: times of pi lie from 300.0 .* ask again"):
        coster.of_kernels(NETWORK.folder, NETWORK.kernels)
    assert meter.asked == 3


def test_devices_have_tables_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    coster, _ = coster_with(Meter(), monkeypatch)
    here = backend_of(TARGET).coster(TARGET, FP32).context
    tables = {here.digest, coster.context.digest}
    for other in (
        replace(MACHINE, number="ba9876543210"),
        replace(MACHINE, name="another"),
        replace(MACHINE, governors=("powersave",)),
        replace(MACHINE, cpu="another processor"),
    ):
        another, _ = coster_with(Meter(), monkeypatch)
        another.__dict__["machine"] = other
        tables.add(another.context.digest)
        late, _ = coster_with(Meter((1.0, 1.0), machine=other), monkeypatch)
        with pytest.raises(ToolError, match="is another than it was"):
            late.of_kernels(NETWORK.folder, NETWORK.kernels)
    assert len(tables) == 6
    warm, _ = coster_with(Meter(), monkeypatch)
    warm.__dict__["machine"] = replace(MACHINE, temperature=70.0, throttled=True)
    assert warm.context == coster.context


def test_of_several_devices_under_a_key_none_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(Address(HOST, 9), tracked=True, key="pi")
    document = replace(MACHINE, architecture="m68k").to_json()
    one, other = (Listed("pi", Address(HOST, port), False, document) for port in (1, 2))
    listed = [one, other, Listed("tv", Address(HOST, 3), False, None)]
    monkeypatch.setattr(device_costs, "list_devices", lambda address: (listed, []))
    ask = lambda: backend_of(TARGET).coster(TARGET, FP32, place).context  # noqa: E731
    with pytest.raises(UsageError, match=r"2 devices under the key 'pi' \(127.0.0.1:1, 127"):
        ask()
    listed.remove(other)
    with pytest.raises(UsageError, match=r"is for .*, and pi is .*ask what its own target costs"):
        ask()
    listed[0] = replace(one, machine=None)
    with pytest.raises(ToolError, match="does not say what it is"):
        ask()
    del listed[0]
    with pytest.raises(ToolError, match="there is no device 'pi' of the tracker"):
        ask()


def test_what_no_device_runs_is_refused() -> None:
    for name, reason in (
        ("npu", "which no RPC server runs"),
        ("mcu", "counts whole inferences"),
        ("mobile_gpu:metal", "written in metal, which no served device runs"),
    ):
        target = find_target(name)
        precision = backend_of(target).wing.precisions[0]
        with pytest.raises(UsageError, match=reason):
            costs_of([block()], target, precision, Path("costs"), print, place=PLACE)


def test_a_device_is_asked_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its calls took varies beside other tests, and is taken here however it does."""
    monkeypatch.setattr(timed_costs, "_STEADY", float("inf"))
    named, device = measured_on(TARGET, FP32, place), Device(TARGET, FP32, tmp_path, place)
    assert device.named == {"device": named}
    context = backend_of(TARGET).coster(TARGET, FP32, place).context
    table = CostTable(tmp_path, context)
    table.add({AROUND: asdict(Around(1.0, 0.25, 0.0, 0.0))})  # measured in the long test
    (cost,) = costs_of([block()], TARGET, FP32, tmp_path, lambda step: None, place=place)
    *kernels, outside = cost.layers
    assert (cost.kind, time_resource(TARGET, FP32, place)) == ("measured", "us")
    assert (outside.key, outside.resources) == (OUTSIDE, {"us": 1.0 + 0.25 * len(kernels)})
    assert all(layer.resources["us"] > 0 for layer in kernels)
    assert added(cost.layers)["us"] == cost.resources["us"]
    assert named in table.path.read_text()
    (file,) = tmp_path.rglob("*.jsonl")
    assert file == table.path

    def fails(coster: DeviceCoster) -> Any:
        raise AssertionError("the table knows it")

    monkeypatch.setattr(DeviceCoster, "_device", fails)
    assert costs_on(device, [block()], print, whole=False) == [cost.resources]


def test_layers_add_up_and_a_device_that_goes_is_told(
    tmp_path: Path, no_opencl: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timed_costs, "_STEADY", 1.0)
    monkeypatch.setattr(device_costs, "_PATIENCE", Patience(wait=4.0))
    (tmp_path / "served").mkdir()
    small = build_model(ModelSpec("small", width=0.35, resolution=96, classes=10))
    with served(tmp_path / "served", environment=no_opencl) as one:
        asked = TARGET, FP32, tmp_path / "costs", lambda step: None
        place = Place(Address(HOST, one.port), seconds=20)
        (cost,) = costs_of([small], *asked, place=place)
        (whole,) = costs_of([small], *asked, place=place, whole=True)
        assert added(whole.layers)["us"] == pytest.approx(whole.resources["us"])
        assert cost.resources["us"] == pytest.approx(whole.resources["us"], rel=0.25)
        (file,) = (tmp_path / "costs").rglob("*.jsonl")
        before = file.read_text()

        def gone(step: str) -> None:
            if "kernels that no table has" in step:
                end(one.process)

        wider = build_model(ModelSpec("small", width=0.75, resolution=96, classes=10))
        with pytest.raises(DevicesGoneError, match=r"answered for 4 s .* is in the database"):
            costs_of([wider], *asked[:3], gone, place=place)
    assert file.read_text() == before
    costs._coster.cache_clear()
    with pytest.raises(ToolError, match="nothing listens there"):
        costs_of([small], *asked, place=place)
