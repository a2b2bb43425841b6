"""Which winners are kept: those that are faster inside the network and make the network faster.

In a contest the candidates for one kernel follow each other, and what the network would have to
fetch from memory may still be in a cache. So winners have two tests more:

1.  In place. The network with default choices and the one with all winners take turns, and every
    call is measured. A winner whose calls are not faster there, by more than the turns differ, is
    dropped.
2.  As a whole. The network as `compile` makes it so far and the one with the winners that are left
    take turns. If it got no faster, the half of the winners that gained least in place is dropped,
    and so on. Winners that only confirm what `compile` did before need no such proof.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.execution.timing.latency import Ratio, ratio
from mbv3c.feeds import Feed, as_feed, save_feed
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import NO_CHOICES, Choices, Plan
from mbv3c.parity.inputs import as_pixels, in_type, parity_inputs
from mbv3c.tuning.choices import tuned_kernels
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.database import Record, key_of, tasks_of
from mbv3c.tuning.meters import BuiltNetwork, Calls, Costs, NetworkMeter
from mbv3c.tuning.tuner import Event

_DEFAULT, _MADE, _KNOWN, _NEXT = "default", "made", "known", "next"


@dataclass(frozen=True)
class Network:
    """The whole network before and after, measured in one run.

    Attributes:
        before, after: cost with the default choices, and with the best that are known; for
            times, the least of all medians of blocks.
        ratio: after to before; for times, the median over interleaved blocks.
        unit: unit of all costs.
        made: cost as `compile` made the network before this tuning.
        made_ratio: after to made, as `ratio` is.
        beside: the costs in the other units that the runner can tell; they decide nothing.
    """

    before: float
    after: float
    ratio: float
    unit: str
    made: float
    made_ratio: float
    beside: tuple["Network", ...] = ()


@dataclass(frozen=True)
class Placed:
    """A winner, and how it did inside the network.

    Attributes:
        record: record of the winner; with the costs inside the network if they were measured.
        ratio: ratio of the time of all its calls to the default's, by blocks; None if the
            default's network has no such kernel, as another winner changed its shape.
        gain: what all calls of the winner save, in the unit of the records.
    """

    record: Record
    ratio: Ratio | None
    gain: float

    @property
    def won(self) -> bool:
        """Say whether three quarters of the blocks agree that it is faster, or none was held."""
        return self.ratio is None or self.ratio.quartiles[1] < 1.0


class Versions:
    """A network with several choices, each lowered and built once."""

    def __init__(
        self,
        lowered: Callable[[Choices], Lowered],
        choices: Callable[[Sequence[Record]], Choices],
        kernels: TunableKernels,
        folder: Path,
        made: Choices = NO_CHOICES,
    ) -> None:
        """Take what it needs to build them.

        Args:
            lowered: function that lowers the network with some choices.
            choices: the choices that `compile` makes if some records are added to what is known.
            kernels: what builds their libraries.
            folder: a place for the libraries.
            made: the choices that `compile` made before.
        """
        self._lowered, self._choices, self._kernels = lowered, choices, kernels
        self._folder, self._made = folder, made
        self._built: dict[str, tuple[Lowered, BuiltNetwork]] = {}
        self._asked: dict[str, tuple[Lowered, BuiltNetwork]] = {}

    def default(self) -> tuple[Lowered, BuiltNetwork]:
        """Return the network with the default choices.

        Raises:
            Mbv3cError: it cannot be built.
        """
        if "" not in self._asked:
            self._asked[""] = self._build(NO_CHOICES)
        return self._asked[""]

    def made(self) -> BuiltNetwork:
        """Return the network as `compile` made it before.

        Raises:
            Mbv3cError: it cannot be built.
        """
        if "made" not in self._asked:
            self._asked["made"] = self._build(self._made)
        return self._asked["made"][1]

    def built(self, records: Sequence[Record]) -> tuple[Lowered, BuiltNetwork]:
        """Return the network as `compile` makes it with some records more.

        Raises:
            Mbv3cError: it cannot be built.
        """
        asked = repr(list(records))
        if asked not in self._asked:
            self._asked[asked] = self._build(self._choices(records))
        return self._asked[asked]

    def _build(self, choices: Choices) -> tuple[Lowered, BuiltNetwork]:
        lowered = self._lowered(choices)
        name = repr(tuned_kernels(lowered.plan))
        if name not in self._built:
            folder = self._folder / str(len(self._built))
            golden = folder / GOLDEN_INPUT
            golden.parent.mkdir(parents=True)
            save_feed(golden, _input_of(lowered.plan))
            self._kernels.build(lowered.module, folder / LIBRARY)
            self._built[name] = lowered, BuiltNetwork(folder, lowered.kernels)
        return self._built[name]


def _input_of(plan: Plan) -> Feed:
    """Return an input of a network: numbers, or the least bytes and positions."""
    drawn = zip(plan.inputs, map(parity_inputs, plan.input_shapes), strict=True)
    types = ((np.dtype(plan.values[name].dtype), x) for name, (x, *_) in drawn)
    return as_feed(
        [
            in_type(x if np.issubdtype(dtype, np.floating) else as_pixels(x, 1), dtype)
            for dtype, x in types
        ]
    )


def keep(
    versions: Versions,
    confirmed: Sequence[Record],
    winners: Sequence[Record],
    names: Mapping[str, str],
    runner: NetworkMeter,
    report: Callable[[Event], None],
    is_late: Callable[[], bool] = lambda: False,
) -> tuple[list[Record], Network | None]:
    """Return the records to keep, and what the network gains by them and by what is known.

    Args:
        versions: versions of the network.
        confirmed: choices that `compile` made before, measured elsewhere or for similar kernels,
            and that were faster than the default here, too.
        winners: winners of contests against the default.
        names: names of the kernels, by key, for people.
        runner: what measures.
        report: function that is told what happens.
        is_late: says whether the time is spent: then no fewer winners are tried, once that all of
            them made the network no faster.

    Returns:
        The records to keep, with their costs in place, and the network with the default choices
        against the one that `compile` makes with them; if nothing at all is kept, against the last
        one that was tried; None if nothing was.

    Raises:
        Mbv3cError: a network cannot be built, or measured.
    """
    default = versions.default()[1]
    if not winners and not confirmed and versions.built([])[1] == default:
        return [], None
    report({"event": "network"})
    base = list(confirmed)
    chosen: list[Record] = []
    if winners or confirmed:
        tried = {record.key: record for record in (*confirmed, *winners)}
        placed = in_place(versions, list(tried.values()), runner)
        for winner in placed:
            if winner.ratio is not None and not winner.won:
                dropped = names[winner.record.key]
                report({"event": "dropped", "task": dropped, "ratio": winner.ratio.median})
        before = {_choice(record) for record in confirmed}
        lost = {_choice(winner.record) for winner in placed if not winner.won}
        base = [record for record in confirmed if _choice(record) not in lost]
        won = sorted((winner for winner in placed if winner.won), key=lambda winner: -winner.gain)
        chosen = [winner.record for winner in won if _choice(winner.record) not in before]
    network, costs = None, None
    while chosen:
        costs = _costs(versions, base, [*base, *chosen], runner)
        step = ratio(costs[runner.unit][_NEXT], costs[runner.unit][_KNOWN]).median
        network = _network(costs, _NEXT, runner.unit)
        if step < 1.0:
            return [*base, *chosen], network
        chosen = [] if is_late() else chosen[: len(chosen) // 2]
        report({"event": "lost", "ratio": step, "left": len(chosen)})
    if versions.built(base)[1] != default:
        costs = costs or _costs(versions, base, base, runner)
        network = _network(costs, _KNOWN, runner.unit)
    return base, network


def in_place(versions: Versions, tried: Sequence[Record], runner: NetworkMeter) -> list[Placed]:
    """Measure choices of different kernels, all of them at once, inside the network."""
    default, plain = versions.default()
    lowered, tuned = versions.built(tried)
    calls = runner.calls([plain, tuned])
    before, after = _by_key(default, calls[plain]), _by_key(lowered, calls[tuned])
    counts = {task.key: task.calls for task in tasks_of([default.plan])}
    placed = []
    for record in tried:
        if record.key not in before or record.key not in after:
            assert record.cost is not None
            assert record.baseline is not None
            placed.append(Placed(record, None, record.baseline - record.cost))
            continue
        compared = ratio(after[record.key], before[record.key])
        spent = median(run for block in before[record.key] for run in block)
        baseline = spent / counts[record.key]
        here = replace(record, cost=baseline * compared.median, baseline=baseline)
        placed.append(Placed(here, compared, spent * (1.0 - compared.median)))
    return placed


def _choice(record: Record) -> tuple[str, str]:
    return record.key, json.dumps(record.knobs, sort_keys=True)


def _by_key(lowered: Lowered, calls: Calls) -> dict[str, Costs]:
    """Return what all calls of the kernels of a key cost, by blocks and runs."""
    keys = {
        name: key_of(step.kind, step.shape)
        for name, step in zip(lowered.kernels, lowered.plan.steps, strict=True)
        if step.shape is not None
    }
    costs_of: dict[str, Costs] = {key: [] for key in keys.values()}
    for block in calls:
        for costs in costs_of.values():
            costs.append([])
        for run in block:
            sums: defaultdict[str, float] = defaultdict(float)
            for name, cost in run:
                if name in keys:
                    sums[keys[name]] += cost
            for key, costs in costs_of.items():
                costs[-1].append(sums[key])
    return costs_of


def _costs(
    versions: Versions, known: Sequence[Record], after: Sequence[Record], runner: NetworkMeter
) -> dict[str, dict[str, Costs]]:
    """Measure the network by default, as it is known, and as it may be next: by unit and side."""
    built = {
        _DEFAULT: versions.default()[1],
        _MADE: versions.made(),
        _KNOWN: versions.built(known)[1],
        _NEXT: versions.built(after)[1],
    }
    measured = runner.wholes(list(dict.fromkeys(built.values())))
    return {
        unit: {side: costs[whole] for side, whole in built.items()}
        for unit, costs in measured.items()
    }


def _network(costs: Mapping[str, Mapping[str, Costs]], side: str, unit: str) -> Network:
    networks = {}
    for each, sides in costs.items():
        default, made, after = sides[_DEFAULT], sides[_MADE], sides[side]
        least = [min(median(block) for block in blocks) for blocks in (default, made, after)]
        to_default, to_made = (ratio(after, blocks).median for blocks in (default, made))
        networks[each] = Network(least[0], least[2], to_default, each, least[1], to_made)
    beside = tuple(network for each, network in networks.items() if each != unit)
    return replace(networks[unit], beside=beside)
