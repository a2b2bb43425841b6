"""The search over a whole network: which kernel is measured next, and which choices are kept."""

import datetime
import platform
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from mbv3c.errors import Mbv3cError
from mbv3c.execution.emulator.cycles import CYCLES
from mbv3c.lowering.traced import Operator
from mbv3c.tuning import metaschedule, search
from mbv3c.tuning.ahead import BATCH, foreseen, wanted
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.database import Database, Record, Task
from mbv3c.tuning.holding import BUILDING, ContestFailedError, HeldHere, Holder, Judged
from mbv3c.tuning.meters import INSTRUCTIONS, Meter
from mbv3c.tuning.pace import FINALISTS, Budget, Pace
from mbv3c.tuning.search import job_slots
from mbv3c.tuning.state import State, network_cost, next_kernel
from mbv3c.version import __version__

# A winner must be faster than the default by more than this, and by more than the rounds differ.
_LEAST_GAIN = {"us": 0.02, INSTRUCTIONS: 0.0, CYCLES: 0.0}

Event = dict[str, Any]
Trials = list[tuple[int, Record, str]]


class NothingMeasuredError(Mbv3cError):
    """Not one measurement was valid."""


@dataclass
class SearchResult:
    """What a search came to.

    Attributes:
        states: every kernel.
        trials: candidates measured, this time.
        failures: how many failed, by kind; and the first message of each.
        winners: records that won against the default, not yet kept.
    """

    states: list[State]
    trials: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    winners: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Tuner:
    """What all searches of a run share.

    Attributes:
        kernels: the kernels of the device.
        meter: what measures.
        database: where records go.
        report: function that is told what happens, as it happens.
        notes: what measures, for those who read the database.
        elsewhere: what holds contests, if this process does not.
    """

    kernels: TunableKernels
    meter: Meter
    database: Database
    report: Callable[[Event], None]
    notes: dict[str, Any] = field(default_factory=dict)
    elsewhere: Holder | None = None

    @property
    def _holder(self) -> Holder:
        return self.elsewhere or HeldHere(self.kernels, self.meter)

    def run(
        self,
        tasks: Sequence[Task],
        budget: Budget,
        seed: int,
        promising: Mapping[str, dict[str, Any]] | None = None,
    ) -> SearchResult:
        """Search until the budget is spent or nothing is left to measure.

        Of time so much is left for the last contests, and for what proves their winners, as these
        are likely to take.

        Records are in the database as soon as they are measured. What was measured in earlier
        runs is not measured again. Of a kernel whose key is in `promising`, the choices there are
        measured first.

        Raises:
            NothingMeasuredError: there was something to measure, and every measurement failed.
            DevicesGoneError: nothing is left that measures.
            DatabaseError: the database is damaged, or is for another device.
        """
        run = {
            "mbv3c": __version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": platform.node() or "unknown",
            "runner": self.meter.description,
            "seed": seed,
            **self.notes,
        }
        context = self.kernels.measured_on.context(self.meter.unit)
        known = {(rec.key, _sorted(rec.knobs)): rec for rec in self.database.open(context, run)}
        first = promising or {}
        outcome = SearchResult(
            [self._begin(task, known, seed, first.get(task.key)) for task in tasks]
        )
        self.report(_start(outcome.states, self.meter.unit, budget))
        pace = Pace(budget, self.meter.slots)
        self._search(outcome, budget, pace)
        if outcome.trials and sum(outcome.failures.values()) == outcome.trials:
            kind, message = next(iter(outcome.messages.items()))
            raise NothingMeasuredError(
                f"not one of {outcome.trials} measurements was valid; the first failed at "
                f"{kind}: {message}"
            )
        self._decide(outcome, pace)
        return outcome

    def _search(self, outcome: SearchResult, budget: Budget, pace: Pace) -> None:
        """Measure batches, as many at once as the runner takes, each of another kernel."""
        late = False
        under_way: dict[Future[Trials], tuple[State, int]] = {}  # and how many candidates it has
        error: BaseException | None = None  # of the first batch that failed; no others begin then
        with job_slots(self.meter.slots) as pool:
            while True:
                left: int | None = None
                if budget.trials is not None:
                    measuring = sum(count for _, count in under_way.values())
                    left = budget.trials - outcome.trials - measuring
                spent = left is not None and left <= 0
                if not late and not self._is_time(outcome, pace):
                    late = True
                    rest = f"the other {max(0.0, budget.left):.0f} s are for last contests"
                    self.report({"event": "step", "text": f"{rest} and the whole network"})
                over = error or spent or late
                busy = {state.task.key for state, _ in under_way.values()}
                free = [state for state in outcome.states if state.task.key not in busy]
                state = None if over else next_kernel(free, budget.patience)
                if state is not None and len(under_way) < self.meter.slots:
                    count = BATCH if left is None else min(BATCH, left)
                    with BUILDING:  # MetaSchedule compiles, too
                        chosen = state.search.next(count, state.random)
                    following = foreseen(outcome.states, (state, chosen), left, budget.patience)
                    self._holder.prepare(following)
                    under_way[pool.submit(self._batch, state, chosen, pace)] = state, len(chosen)
                    continue
                if not under_way:
                    break
                for batch in wait(under_way, return_when=FIRST_COMPLETED).done:
                    state, _ = under_way.pop(batch)
                    if failure := batch.exception():
                        error = error or failure
                    else:
                        self._learn(state, batch.result(), outcome)
        if error:
            raise error

    def _is_time(self, outcome: SearchResult, pace: Pace) -> bool:
        """Say whether there is time for a batch, and then for what must follow."""
        finals = sum(map(_has_better, outcome.states))
        return pace.is_time_for(BATCH, finals, len(outcome.states))

    def _batch(self, state: State, chosen: Sequence[int], pace: Pace) -> Trials:
        begun = time.monotonic()
        trials = list(self._measured(state, [0, *chosen]))
        pace.held(len(chosen) + 1, time.monotonic() - begun)
        return trials

    def _begin(
        self,
        task: Task,
        known: dict[tuple[str, str], Record],
        seed: int,
        promising: dict[str, Any] | None,
    ) -> State:
        random = np.random.default_rng((seed, zlib.crc32(task.key.encode())))
        target = self.kernels.operators
        if isinstance(task.shape, Operator) and target is not None:
            own = [record for (key, _), record in known.items() if key == task.key]
            traces = metaschedule.start(task.shape, target, own, promising, seed)
            baselines = (rec.baseline for rec in own if not rec.knobs["trace"])
            return State(task, traces, random, next(baselines, None))
        legal, default = self.kernels.legal(task), self.kernels.default(task)
        records = {tile: known.get((task.key, _sorted(asdict(tile)))) for tile in legal}
        measured = {tile: rec.relative for tile, rec in records.items() if rec is not None}
        first = records.get(default)
        earliest = [tile for tile in legal if asdict(tile) == promising]
        begun = search.start(legal, default, measured, earliest)
        return State(task, begun, random, first.baseline if first else None)

    def _learn(self, state: State, trials: Trials, outcome: SearchResult) -> None:
        """Remember the default's and the candidates' measurements of a kernel."""
        records: list[Record] = []
        costs: dict[int, float | None] = {}
        for at, record, message in trials:
            if at == 0 and state.cost is not None:
                continue
            records.append(record)
            if at == 0:
                state.cost = record.cost
                continue
            outcome.trials += 1
            costs[at] = record.relative
            if record.outcome != "ok":
                outcome.failures[record.outcome] += 1
                outcome.messages.setdefault(record.outcome, message)
        self.database.append(records)
        state.search.learn(costs)
        relative = state.search.seen[state.search.best] or 1.0
        self.report(
            {
                "event": "batch",
                "task": state.task.name,
                "kind": state.task.kind,
                "measured": len(state.search.seen),
                "legal": len(state.search.tiles),
                "cost": state.cost,
                "trials": outcome.trials,
                "best": relative,
                "network": network_cost(outcome.states),
                "failures": dict(outcome.failures),
            }
        )

    def _measured(self, state: State, chosen: Sequence[int]) -> Iterator[tuple[int, Record, str]]:
        """Yield a record and a message for every candidate; the first of them is the default.

        A contest that fails as a whole is held again in halves, until the culprit is found.

        Raises:
            NothingMeasuredError: the default itself fails.
        """
        try:
            result = self._contest(state, chosen)
        except ContestFailedError as error:
            yield from self._halved(state, chosen, error.outcome, str(error))
            return
        baseline = result.cost(0)
        for number, at in enumerate(chosen):
            right = result.right[number]
            outcome, cost = ("ok", result.cost(number)) if right else ("wrong", None)
            message = f"{state.task.name}, {state.search.tiles[at]}: another result"
            record = self._record(state, at, outcome, cost, baseline)
            yield at, record, "" if right else message

    def _halved(
        self, state: State, chosen: Sequence[int], outcome: str, message: str
    ) -> Iterator[tuple[int, Record, str]]:
        default, *rest = chosen
        if state.cost is None and rest:  # whether it is the default's fault
            list(self._measured(state, [default]))
        if not rest:
            raise NothingMeasuredError(
                f"the default kernel for {state.task.name} fails at {outcome}: {message}"
            )
        if len(rest) == 1:
            yield rest[0], self._record(state, rest[0], outcome, None, None), message
            return
        middle = len(rest) // 2
        for half in (rest[:middle], rest[middle:]):
            yield from self._measured(state, [default, *half])

    def _contest(self, state: State, chosen: Sequence[int]) -> Judged:
        return self._holder.hold(wanted(state, chosen[1:]))

    def _record(
        self, state: State, at: int, outcome: str, cost: float | None, baseline: float | None
    ) -> Record:
        knobs = asdict(state.search.tiles[at])
        return Record(state.task.key, knobs, outcome, cost, baseline)

    def _decide(self, outcome: SearchResult, pace: Pace) -> None:
        """Hold a last contest between the default and the best of every kernel.

        If time is short, only kernels have one with which most is gained.
        """
        finals = [
            (state, better[:FINALISTS]) for state in outcome.states if (better := _better(state))
        ]
        count = pace.finals(len(finals), len(outcome.states))
        if count < len(finals):
            text = f"time for {count} last contests of {len(finals)}: those with most to gain"
            self.report({"event": "step", "text": f"{text}; the others are for another run"})
            most = sorted(finals, key=lambda final: -_gain(final[0]))[:count]
            finals = [final for final in finals if final in most]
        contests: list[Future[Record | None]] = []
        with job_slots(self.meter.slots) as pool:
            for number, final in enumerate(finals):
                self._holder.prepare(wanted(*other) for other in finals[number:])
                contests.append(pool.submit(self._final, *final))
            wait(contests)
        outcome.winners += [record for contest in contests if (record := contest.result())]

    def _final(self, state: State, finalists: Sequence[int]) -> Record | None:
        """Return the record of the finalist that beats the default by more than the noise."""
        self.report({"event": "final", "task": state.task.name})
        try:
            result = self._contest(state, [0, *finalists])
        except ContestFailedError:
            return None
        best: Record | None = None
        ratio = 1.0 - _LEAST_GAIN[self.meter.unit]
        for number, at in enumerate(finalists, 1):
            pairs = zip(result.costs[number], result.costs[0], strict=True)
            ratios = sorted(a / b for a, b in pairs)
            worst = ratios[(3 * len(ratios)) // 4 if len(ratios) > 1 else 0]
            if median(ratios) < ratio and worst < 1.0 and result.right[number]:
                ratio = median(ratios)
                record = self._record(state, at, "ok", result.cost(number), result.cost(0))
                best = replace(record, kept=True)
        return best


def _better(state: State) -> list[int]:
    """Return the candidates that were faster than the default, the fastest first."""
    seen = state.search.seen.items()
    return [at for _, at in sorted((cost, at) for at, cost in seen if at and cost and cost < 1.0)]


def _has_better(state: State) -> bool:
    return bool(_better(state))


def _gain(state: State) -> float:
    """Return what the network may gain by the best candidate for a kernel."""
    best = state.search.seen[state.search.best] or 1.0
    return state.task.calls * (state.cost or 0.0) * (1.0 - best)


def _start(states: Sequence[State], unit: str, budget: Budget) -> Event:
    """Return the event that says what there is to do, and what is known from before."""
    tasks = [
        {
            "task": state.task.name,
            "calls": state.task.calls,
            "measured": len(state.search.seen),
            "legal": len(state.search.tiles),
            "cost": state.cost,
            "best": state.search.seen[state.search.best],
        }
        for state in states
    ]
    return {
        "event": "start",
        "unit": unit,
        "trials": budget.trials,
        "seconds": budget.seconds,
        "tasks": tasks,
    }


def _sorted(knobs: dict[str, Any]) -> str:
    return repr(sorted(knobs.items()))
