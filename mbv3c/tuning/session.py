"""Tune a network from beginning to end: search, prove, and keep what makes it faster."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.execution.device.machine import read_machine
from mbv3c.execution.opencl.runtime import device_info
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import DEFAULT, NO_CHOICES, TRANSFERRED, TUNED, Choices, Plan
from mbv3c.scratch import scratch_folder
from mbv3c.tuning import plot
from mbv3c.tuning.choices import OWN, recorded, tuned_kernels
from mbv3c.tuning.confirm import Network, Versions, keep
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.database import Database, Record, best, is_operator, key_of, tasks_of
from mbv3c.tuning.device_meter import DeviceMeter
from mbv3c.tuning.holding import Holder
from mbv3c.tuning.metaschedule import TraceSearch
from mbv3c.tuning.meters import CountingMeter, LocalMeter, NetworkMeter
from mbv3c.tuning.pace import Budget
from mbv3c.tuning.state import State
from mbv3c.tuning.tuner import Event, SearchResult, Tuner

_SHOWN = 8  # names in a line
ORIGINS = (TUNED, TRANSFERRED, DEFAULT)


@dataclass(frozen=True)
class TunedNetwork:
    """What `tune` did.

    Attributes:
        database: the folder of the records.
        device: `FAMILY:DEVICE`.
        runner: what measured.
        outcome: outcome of the search.
        kept: the winners that are in the database now.
        network: the whole network; None if nothing won, now or before.
        estimate: what follows from an estimate, which measures nothing; empty otherwise.
        untuned: those of TVM's operators of which no candidate was measured, and why.
        compiled: how many kernels `compile` now has of each origin.
        unused: how many kept records are for kernels that other choices gave another shape.
    """

    database: Path
    device: str
    runner: str
    outcome: SearchResult
    kept: list[Record]
    network: Network | None
    estimate: str = ""
    untuned: tuple[tuple[str, str], ...] = ()
    compiled: Mapping[str, int] = field(default_factory=dict)
    unused: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        outcome = self.outcome
        return {
            "database": str(self.database),
            "device": self.device,
            "runner": self.runner,
            "kernels": len(outcome.states),
            "trials": outcome.trials,
            "failures": dict(outcome.failures),
            "kept": len(self.kept),
            "compiled": {origin: self.compiled.get(origin, 0) for origin in ORIGINS},
            "network": asdict(self.network) if self.network else None,
            "untuned_operators": [
                {"operator": name, "reason": reason} for name, reason in self.untuned
            ],
            "tasks": [
                {
                    "task": state.task.name,
                    "kind": state.task.kind,
                    "calls": state.task.calls,
                    "measured": len(state.search.seen),
                    "legal": len(state.search.tiles),
                    "default_cost": state.cost,
                    "best_relative": state.search.seen[state.search.best],
                }
                for state in outcome.states
            ],
        }

    def lines(self) -> Iterator[str]:
        """Say what the tuning achieved."""
        return iter(summary_lines(self))

    def draw(self, path: Path, *, force: bool) -> None:
        """Draw what was found over time.

        Raises:
            UsageError: nothing was measured, or the picture cannot be written.
        """
        if self.estimate:
            raise UsageError(f"--plot draws measurements, and {self.device} was only estimated")
        lines = plot.curves(self.outcome.states, Database(self.database).records())
        plot.draw(path, lines, self.device, self.runner, force=force)


@dataclass(frozen=True)
class Tunable:
    """A network that can be tuned.

    Attributes:
        kernels: the kernels of the device.
        lower: lowers the network with some choices.
        best_known: the choices that `compile` makes if some records are added to what is known.
    """

    kernels: TunableKernels
    lower: Callable[[Choices], Lowered]
    best_known: Callable[[Sequence[Record]], Choices]


def tune_network(
    network: Tunable,
    database: Database,
    meter: NetworkMeter,
    budget: Budget,
    seed: int,
    report: Callable[[Event], None],
    elsewhere: Holder | None = None,
) -> TunedNetwork:
    """Tune the kernels of a network and keep those that make the whole network faster.

    Args:
        network: the network.
        database: where measurements are kept.
        meter: what measures.
        budget: when to stop.
        seed: seed by which candidates are drawn.
        report: function that is told what happens.
        elsewhere: what holds contests, if this process does not. Whole networks are measured here.

    Raises:
        NothingMeasuredError: all measurements failed.
        DevicesGoneError: no device answers any more; what was measured is in the database.
        DatabaseError: the database is damaged, in use, or for something else.
    """
    kernels = network.kernels
    default = network.lower(NO_CHOICES)
    with database.only_one():
        if database.torn():
            report({"event": "torn", "file": str(database.folder)})
        tasks = tasks_of([default.plan])
        if isinstance(meter, DeviceMeter) and tasks:
            meter.prove_with(min(tasks, key=lambda task: task.work), kernels)
        notes = {} if isinstance(meter, CountingMeter) else {"devices": _notes(meter, report)}
        tuner = Tuner(kernels, meter, database, report, notes, elsewhere)
        made = network.best_known([])
        promising = recorded(tuned_kernels(network.lower(made).plan)).knobs
        outcome = tuner.run(tasks, budget, seed, promising)
        with scratch_folder("tune") as folder:
            versions = Versions(network.lower, network.best_known, kernels, folder, made)
            names = {task.key: task.name for task in tasks}
            confirmed = _confirmed(database.records(), promising)
            kept, gain = keep(
                versions, confirmed, outcome.winners, names, meter, report, lambda: budget.spent
            )
        database.append(kept)
    plan = network.lower(network.best_known(kept)).plan
    shapes = {key_of(step.kind, step.shape) for step in plan.steps if step.shape is not None}
    device = kernels.measured_on.device
    return TunedNetwork(
        database.folder,
        device,
        meter.description,
        outcome,
        kept,
        gain,
        untuned=tuple(untuned_operators(default.plan, outcome.states)),
        compiled=Counter(step.origin for step in plan.steps if step.origin),
        unused=len({record.key for record in kept} - shapes),
    )


def untuned_operators(plan: Plan, states: Sequence[State]) -> Iterator[tuple[str, str]]:
    """Say of which of TVM's operators no candidate was measured, and why."""
    for step in plan.steps:
        if step.operator and step.shape is None:
            yield f"{step.operator} in {step.nodes[0]}", "contests cannot draw its inputs"
    for state in states:
        search = state.search
        if any(cost is not None for at, cost in search.seen.items() if at):
            continue
        if isinstance(search, TraceSearch):
            failed = len(search.seen) > 1
            proposed = "every candidate failed" if failed else "MetaSchedule proposes nothing"
            reason = search.fault or (proposed if search.done or failed else "the budget is spent")
            yield state.task.name, reason


def _confirmed(records: Sequence[Record], promising: Mapping[str, dict[str, Any]]) -> list[Record]:
    """Return what was faster than the default here, as it was where `compile` has it from."""
    kept = best(records)
    confirmed = {
        record.key: replace(record, kept=True)
        for record in records
        if record.key in promising
        and record.key not in kept
        and record.knobs == promising[record.key]
        and (record.relative or 1.0) < 1.0
    }
    return list(confirmed.values())


def _notes(meter: NetworkMeter, report: Callable[[Event], None]) -> list[dict[str, Any]]:
    """Say what measures, for those who read the database; report what makes times doubtful."""
    if isinstance(meter, DeviceMeter):
        return meter.notes
    here = read_machine()
    if isinstance(meter, LocalMeter) and meter.device:
        here = replace(here, opencl=device_info())
    for text in here.doubts.values():
        report({"event": "device-doubt", "device": here.name, "text": text})
    return [{"address": None, "machine": here.to_json()}]


def summary_lines(tuned: TunedNetwork) -> list[str]:
    """Return what people want to know."""
    outcome = tuned.outcome
    done = "estimated" if tuned.estimate else "measured"
    lines = [f"{'kernel':<44}{'calls':>5}{done:>12}{'best':>8}"]
    for state in outcome.states:
        seen = f"{len(state.search.seen)}/{len(state.search.tiles)}"
        relative = state.search.seen[state.search.best] or 1.0
        lines.append(f"{state.task.name:<44}{state.task.calls:>5}{seen:>12}{relative:>8.3f}")
    lines.append(
        f"{done}: of all choices of a kernel; best: what the best one takes, as a share of what "
        "the default takes"
    )
    if tuned.estimate:
        lines.append(f"{outcome.trials} choices estimated by {tuned.runner}; nothing was measured")
        return [*lines, tuned.estimate]
    failures = ", ".join(f"{count} {kind}" for kind, count in outcome.failures.items())
    lines.append(
        f"{outcome.trials} candidates measured on {tuned.runner}"
        + (f"; failed: {failures}" if failures else "")
    )
    lines += [f"  first {kind}: {text.splitlines()[0]}" for kind, text in outcome.messages.items()]
    if tuned.untuned:
        named = "; ".join(f"{name} ({reason})" for name, reason in tuned.untuned[:_SHOWN])
        more = f" and {len(tuned.untuned) - _SHOWN} more" if len(tuned.untuned) > _SHOWN else ""
        lines.append(
            f"no candidate was measured for these operators that TVM compiles: {named}{more}"
        )
    if tuned.network is None:
        return [*lines, "nothing was better than the default choices"]
    for network in (tuned.network, *tuned.network.beside):
        lines += _network_lines(network)
    return [*lines, *_kept_lines(tuned)]


def _network_lines(network: Network) -> list[str]:
    """Say what the whole network took with the default choices, as it was compiled, and now."""
    timed = network.unit == "us"
    how = ", the least median of all turns; ratios are medians over turns" * timed
    ratios = f"{network.ratio:.3f} of the default, {network.made_ratio:.3f} of before"
    return [
        f"whole network, in {network.unit}{how}:",
        f"  {'with the default choices':<26}{network.before:>13,.0f}",
        f"  {'as compile made it before':<26}{network.made:>13,.0f}",
        f"  {'now':<26}{network.after:>13,.0f}  {ratios}",
    ]


def _kept_lines(tuned: TunedNetwork) -> list[str]:
    """Say what was kept, where `compile` finds that, and what it makes of it."""
    if not tuned.kept:
        return ["nothing new was kept"]
    root = tuned.database.parents[1]
    where = "from this folder" if root == OWN else f"with --tune-logs {root}"
    other = f"; {tuned.unused} for shapes that other choices changed" * bool(tuned.unused)
    made = ", ".join(f"{tuned.compiled.get(each, 0)} {_ORIGIN_WORDS[each]}" for each in ORIGINS)
    return [
        f"{len(tuned.kept)} choices kept in {tuned.database}{other}",
        f"compile takes them {where}: {made}",
    ]


_ORIGIN_WORDS = {TUNED: "kernels tuned", TRANSFERRED: "transferred", DEFAULT: "by default rules"}

# What most events are in words, with their own fields.
_SENTENCES = {
    "step": "{text}",
    "final": "{task}: the best against the default",
    "network": "measuring the whole network, before and after",
    "dropped": "{task}: inside the network no gain beyond noise ({ratio:.3f})",
    "torn": "{file}: the last record was only half written, and is dropped",
    "device-fault": "{device}: {text}; trying again",
    "device-aside": "{device} does not answer, set aside: {text}",
    "device-back": "{device} is back",
    "devices-gone": "no device answers; waiting up to {seconds:g} s for one",
    "device-doubt": "{device}: {text}",
}


def event_sentence(event: Event) -> str:
    """Put an event into words."""
    match event["event"]:
        case "start":
            limits = [
                *([f"{event['trials']} candidates"] if event["trials"] is not None else []),
                *([f"{event['seconds'] / 60:g} minutes"] if event["seconds"] is not None else []),
            ]
            return f"{len(event['tasks'])} kernels to tune; at most {' or '.join(limits)}"
        case "batch":
            network = event["network"]
            estimate = f"; network estimated {network:.3f}" if network is not None else ""
            return (
                f"{event['task']}: {event['measured']} of {event['legal']} measured, best "
                f"{event['best']:.3f}{estimate} ({event['trials']} trials)"
            )
        case "lost":
            left = event["left"]
            rest = f"trying {left} of the winners" if left else "none of the winners is kept"
            return f"the whole network got no faster ({event['ratio']:.3f}): {rest}"
        case kind if kind in _SENTENCES:
            return _SENTENCES[kind].format_map(event)
    return str(event)


def status_lines(database: Database) -> list[str]:
    """Say what is in a database."""
    records = database.records()
    context = database.context()
    outcomes = Counter(record.outcome for record in records)
    counted = ", ".join(f"{count} {kind}" for kind, count in outcomes.items())
    kernels = len({record.key for record in records})
    if context is None:
        return [f"{database.folder}: nothing was measured"]
    return [
        f"{database.folder}: {context.target}, kernels {context.kernels}, "
        f"apache-tvm {context.tvm}, in {context.unit}",
        f"{len(records)} records of {kernels} kernels ({counted}); {len(best(records))} tuned",
        *([_operators_status(records)] if any(is_operator(one.key) for one in records) else []),
    ]


def _operators_status(records: Sequence[Record]) -> str:
    keys = {record.key for record in records if is_operator(record.key)}
    return f"{len(keys)} of them TVM's operators; {len(keys & best(records).keys())} tuned"
