"""Which winners are kept: counted in place and as a whole, on the emulated processor."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import NO_CHOICES, Choices
from mbv3c.passes import run_pipeline
from mbv3c.pipeline import tune_model
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.library import building
from mbv3c.tuning.choices import best_choices
from mbv3c.tuning.confirm import Network, Versions, in_place, keep
from mbv3c.tuning.database import Database, Record, Task, folder_for, tasks_of
from mbv3c.tuning.meters import BuiltNetwork, Calls, Costs, CountingMeter
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.session import TunedNetwork
from mbv3c.tuning.tuner import Event

A76 = BACKEND.wing.find("arm_cpu", "cortex-a76")
KERNELS = BACKEND.kernels(A76)
CLAIMED = 5  # kernels; for each of them the network is built once more


@dataclass
class Skewed:
    """Counts, but says of some networks that they take longer as a whole than they do.

    Attributes:
        inner: what counts.
        slow: how many of the first networks that were tried as wholes are slow.
    """

    inner: CountingMeter
    slow: int
    tried: list[BuiltNetwork] = field(default_factory=list)

    unit = "instructions"

    def calls(self, wholes: Sequence[BuiltNetwork]) -> dict[BuiltNetwork, Calls]:
        return self.inner.calls(wholes)

    def wholes(self, wholes: Sequence[BuiltNetwork]) -> dict[str, dict[BuiltNetwork, Costs]]:
        found = self.inner.wholes(wholes)
        self.tried.append(wholes[-1])
        if len(self.tried) <= self.slow:
            for costs in found.values():
                costs[wholes[-1]] = [[2 * one for one in block] for block in costs[wholes[-1]]]
        return found


@pytest.fixture(scope="module")
def lowered(blocks: onnx.ModelProto) -> Any:
    model: onnx.ModelProto = run_pipeline(blocks)[0]

    def lower(choices: Choices) -> Lowered:
        return BACKEND.lower_graph(model, Job(A76, choices=choices))

    return lower


@pytest.fixture(scope="module")
def tasks(lowered: Any) -> list[Task]:
    return tasks_of([lowered(NO_CHOICES).plan])


@pytest.fixture(scope="module")
def versions(lowered: Any, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(lowered, best_choices, KERNELS, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def runner(emulator_kit: EmulatorKit) -> CountingMeter:
    return CountingMeter(emulator_kit, "cortex-a76")


@dataclass
class Kept:
    """What `keep` returned and reported."""

    records: list[Record]
    network: Network
    events: list[Event] = field(default_factory=list)


@pytest.fixture
def kept_of(tasks: list[Task], versions: Versions, runner: CountingMeter) -> Callable[..., Kept]:
    """Keep what was confirmed and what won, while so many networks are slow as wholes."""

    def kept(confirmed: Sequence[Record], winners: Sequence[Record], slow: int = 0) -> Kept:
        events: list[Event] = []
        skewed: Any = Skewed(runner, slow)
        names = {task.key: task.name for task in tasks}
        records, network = keep(versions, confirmed, winners, names, skewed, events.append)
        assert network is not None
        return Kept(records, network, events)

    return kept


def claim(task: Task) -> Record:
    """Return a record that says of some tile that it took half of the default's time."""
    default = KERNELS.default(task)
    others = [one for one in KERNELS.legal(task) if one != default]
    knobs = asdict(others[3 * len(others) // 4])
    return Record(task.key, knobs, "ok", 1.0, 2.0, kept=True)


def sort_out(
    tasks: Sequence[Task], versions: Versions, runner: CountingMeter
) -> tuple[list[Record], list[Record]]:
    """Return winners that are some inside the network, most gain first, and those that are not."""
    placed = in_place(versions, [claim(task) for task in tasks], runner)
    assert [one.record.key for one in placed] == [task.key for task in tasks]
    assert all(one.won == (one.gain > 0) for one in placed)
    won = sorted((one for one in placed if one.won), key=lambda one: -one.gain)
    return [one.record for one in won], [one.record for one in placed if not one.won]


@pytest.fixture(scope="module")
def sorted_out(
    tasks: list[Task], versions: Versions, runner: CountingMeter
) -> tuple[list[Record], list[Record]]:
    return sort_out(tasks, versions, runner)


def test_what_wins_in_contests_only_is_dropped(
    tasks: list[Task],
    versions: Versions,
    runner: CountingMeter,
    kept_of: Callable[..., Kept],
) -> None:
    true, false = sort_out(tasks[:CLAIMED], versions, runner)
    assert len(true) >= 2
    assert false
    kept = kept_of([], [*false, *true])
    assert chosen(kept.records) == chosen(true)
    lost = {one.key for one in false}
    assert {one["task"] for one in kept.events if one["event"] == "dropped"} == {
        task.name for task in tasks if task.key in lost
    }
    calls = {task.key: task.calls for task in tasks}
    saved = sum(
        (one.baseline - one.cost) * calls[one.key]
        for one in kept.records
        if one.baseline and one.cost
    )
    assert kept.network.before - kept.network.after == pytest.approx(saved, rel=1e-3)


def chosen(records: Sequence[Record]) -> list[tuple[str, dict[str, Any]]]:
    return [(one.key, one.knobs) for one in records]


def test_if_all_is_slower_half_of_the_winners_is_tried(
    sorted_out: tuple[list[Record], list[Record]], kept_of: Callable[..., Kept]
) -> None:
    true, _ = sorted_out
    kept = kept_of([], true, slow=2)
    assert chosen(kept.records) == chosen(true[: len(true) // 4])
    assert [one.get("left") for one in kept.events if one["event"] == "lost"] == [
        len(true) // 2,
        len(true) // 4,
    ]
    assert kept.network.ratio < 1


def test_if_everything_is_slower_nothing_is_kept_but_what_was(
    sorted_out: tuple[list[Record], list[Record]], kept_of: Callable[..., Kept]
) -> None:
    confirmed, true = sorted_out[0][:1], sorted_out[0][1:3]
    kept = kept_of(confirmed, true, slow=9)
    assert chosen(kept.records) == chosen(confirmed)
    assert kept.events[-1]["left"] == 0
    assert kept.network.ratio < 1
    kept = kept_of([], true, slow=9)
    assert kept.records == []
    assert kept.network.ratio > 1.5


def test_what_was_confirmed_is_kept_without_a_winner_but_not_if_it_is_slower_in_place(
    sorted_out: tuple[list[Record], list[Record]], kept_of: Callable[..., Kept]
) -> None:
    true, false = sorted_out
    kept = kept_of([*true[:2], false[0]], true[:1])
    assert chosen(kept.records) == chosen(true[:2])
    assert [one["event"] for one in kept.events] == ["network", "dropped"]
    assert kept.network.ratio < 1


def test_without_winners_nothing_is_measured(
    lowered: Any, runner: CountingMeter, tmp_path: Path
) -> None:
    silent = partial(pytest.fail, "nothing happens")
    fresh = Versions(lowered, best_choices, KERNELS, tmp_path)
    assert keep(fresh, [], [], {}, runner, silent) == ([], None)
    assert len(list(tmp_path.iterdir())) == 1  # by default, to see that `compile` takes no other


def test_what_comes_with_mbv3c_is_measured_first_and_kept_where_it_is_faster(
    sorted_out: tuple[list[Record], list[Record]],
    tasks: list[Task],
    blocks: onnx.ModelProto,
    emulator_kit: EmulatorKit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels that cost most come first, twelve candidates each."""
    order = sorted(tasks, key=lambda task: -task.calls * task.step.madds)
    places = {task.key: at for at, task in enumerate(order)}
    true = min(sorted_out[0], key=lambda one: places[one.key])
    shipped, own = (Database(folder_for(tmp_path / name, A76.name)) for name in ("shipped", "own"))
    shipped.open(KERNELS.measured_on.context("instructions"), {})
    shipped.append([true])
    monkeypatch.setattr(building, "shipped", lambda: tmp_path / "shipped")
    request = TuneRequest(tmp_path / "own", "emulated", 12 * places[true.key] + 1)
    events: list[Event] = []
    tuned = tune_model(blocks, Job(A76), request, events.append)
    assert isinstance(tuned, TunedNetwork)
    mine = [one for one in own.records() if one.key == true.key]
    default, first, *kept = mine
    assert default.cost == default.baseline
    assert first.knobs == true.knobs
    assert [(one.knobs, one.kept) for one in kept] == [(true.knobs, True)]
    assert chosen([true])[0] in chosen(tuned.kept)
