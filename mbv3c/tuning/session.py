"""Tune a network from beginning to end: search, prove, and keep what makes it faster."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from mbv3c.errors import UsageError
from mbv3c.execution.device.machine import read_machine
from mbv3c.execution.device.place import Place
from mbv3c.execution.opencl.runtime import device_info
from mbv3c.job import Target
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.lower import Lowered
from mbv3c.prepare import check_keep_float, rewritten_for
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.backend import _cpu_runner
from mbv3c.targets.library import lower_for, processor_of
from mbv3c.targets.opencl.backend import _estimated, _gpu_runner
from mbv3c.tuning.choices import device_of, measured, recorded, shipped, tuned_kernels
from mbv3c.tuning.confirm import Network, Versions, keep
from mbv3c.tuning.database import Database, Record, best, folder_for
from mbv3c.tuning.device_meter import DeviceMeter
from mbv3c.tuning.meters import CountingMeter, LocalMeter, NetworkMeter
from mbv3c.tuning.tasks import tasks_of
from mbv3c.tuning.tuner import Budget, Event, SearchResult, Tuner

RPC = "rpc"
RUNNERS = ("local", "emulated", "estimated", RPC)
GPU_RUNNERS = ("local", "estimated", RPC)


@dataclass(frozen=True)
class TunedNetwork:
    """What `tune` did.

    Attributes:
        database: the folder of the records.
        device: `FAMILY:DEVICE`.
        runner: what measured.
        outcome: of the search.
        kept: the winners that are in the database now.
        network: the whole network; None if nothing won, now or before.
        estimate: of an estimate, which measures nothing, what follows from it.
    """

    database: Path
    device: str
    runner: str
    outcome: SearchResult
    kept: list[Record]
    network: Network | None
    estimate: str = ""

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
            "network": asdict(self.network) if self.network else None,
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


def tune_network(
    model: onnx.ModelProto,
    target: Target,
    root: Path,
    runner_name: str | None,
    budget: Budget,
    seed: int,
    report: Callable[[Event], None],
    devices: DeviceMeter | None = None,
    *,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
) -> TunedNetwork:
    """Tune the kernels of a model and keep those that make the whole of it faster.

    Args:
        model: the model as given, with fixed shapes; for int8 the quantized one.
        target: a CPU or a GPU of the table.
        root: the folder of all databases.
        runner_name: one of `RUNNERS`, or of `GPU_RUNNERS`; None for what fits the target.
        budget: when to stop.
        seed: decides which candidates are drawn.
        report: told what happens.
        devices: what measures instead of the named runner.
        precision: of `PRECISIONS`, one in which the target computes.
        keep_float: for fp16: nodes whose names match one of these patterns stay in fp32.

    Raises:
        UsageError: the runner does not fit the target, or a pattern matches no node.
        ToolError: the emulator has not been fetched, or there is no OpenCL device.
        NothingMeasuredError: all measurements failed.
        DevicesGoneError: no device answers any more; what was measured is in the database.
        DatabaseError: the database is damaged, in use, or for something else.
    """
    resolved = cpu.resolve(target)
    optimized, _ = rewritten_for(model, precision)
    check_keep_float(optimized, keep_float)

    def lowered(choices: Choices) -> Lowered:
        return lower_for(optimized, resolved, precision, keep_float, choices)

    default = lowered(NO_CHOICES)
    database = Database(folder_for(root, device_of(target)))
    runner = devices or _runner(target, runner_name)
    if runner is None:
        return _estimated(database, target, default)
    with database.only_one():
        if database.torn():
            report({"event": "torn", "file": str(database.folder)})
        tasks = tasks_of([default.plan])
        processor = processor_of(resolved)
        if devices is not None and tasks:
            devices.prove_with(min(tasks, key=lambda task: task.step.madds), processor)
        notes = {} if isinstance(runner, CountingMeter) else {"devices": _notes(runner, report)}
        tuner = Tuner(processor, resolved, runner, database, report, notes)

        def choices(new: Sequence[Record]) -> Choices:
            return measured(target, (root, shipped()), new)

        promising = recorded(tuned_kernels(lowered(choices([])).plan)).knobs
        outcome = tuner.run(tasks, budget, seed, promising)
        with tempfile.TemporaryDirectory(prefix="mbv3c-tune-") as name:
            versions = Versions(lowered, choices, resolved, Path(name))
            names = {task.key: task.name for task in tasks}
            confirmed = _confirmed(database.records(), promising)
            kept, network = keep(versions, confirmed, outcome.winners, names, runner, report)
        database.append(kept)
    return TunedNetwork(
        database.folder,
        device_of(target),
        runner.description,
        outcome,
        kept,
        network,
    )


def _confirmed(records: Sequence[Record], promising: Mapping[str, dict[str, Any]]) -> list[Record]:
    """Return what was faster than the default here, as it was where `compile` has it from."""
    kept = best(records)
    found = {
        one.key: replace(one, kept=True)
        for one in records
        if one.key in promising
        and one.key not in kept
        and one.knobs == promising[one.key]
        and (one.relative or 1.0) < 1.0
    }
    return list(found.values())


def check_runner(name: str | None, place: Place | None) -> None:
    """Make sure that a runner is one, and goes with a device.

    Raises:
        UsageError: it does not.
    """
    known = dict.fromkeys((*RUNNERS, *GPU_RUNNERS))
    if name is not None and name not in known:
        raise UsageError(f"unknown runner {name!r}; known: {', '.join(known)}")
    if name == RPC and place is None:
        raise UsageError("--runner rpc needs a device: give --device, or --tracker and --key")
    if place is not None and name not in (None, RPC):
        raise UsageError(f"--runner {name} measures here: leave --device or --tracker out")


def _notes(runner: NetworkMeter, report: Callable[[Event], None]) -> list[dict[str, Any]]:
    """Say what measures, for those who read the database; report what makes times doubtful."""
    if isinstance(runner, DeviceMeter):
        return runner.notes
    here = read_machine()
    if isinstance(runner, LocalMeter) and runner.device:
        here = replace(here, opencl=device_info())
    for text in here.doubts.values():
        report({"event": "device-doubt", "device": here.name, "text": text})
    return [{"address": None, "machine": here.to_json()}]


def _runner(target: Target, name: str | None) -> NetworkMeter | None:
    """Return what measures; None for an estimate.

    Raises:
        UsageError: the runner does not fit the target.
        ToolError: what it needs is not here.
    """
    known = GPU_RUNNERS if target.gpu else RUNNERS
    if name is not None and name not in known:
        raise UsageError(
            f"--runner {name} is not for {target.name}; known for it: {', '.join(known)}"
        )
    return _gpu_runner(target, name) if target.gpu else _cpu_runner(target, name)


def summary_lines(tuned: TunedNetwork) -> list[str]:
    """Return what people want to know."""
    outcome = tuned.outcome
    done = "estimated" if tuned.estimate else "measured"
    lines = [f"{'kernel':<44}{'calls':>5}{done:>12}{'best':>8}  of the default"]
    for state in outcome.states:
        seen = f"{len(state.search.seen)}/{len(state.search.tiles)}"
        relative = state.search.seen[state.search.best] or 1.0
        lines.append(f"{state.task.name:<44}{state.task.calls:>5}{seen:>12}{relative:>8.3f}")
    if tuned.estimate:
        lines.append(f"{outcome.trials} choices estimated by {tuned.runner}; nothing was measured")
        return [*lines, tuned.estimate]
    failures = ", ".join(f"{count} {kind}" for kind, count in outcome.failures.items())
    lines.append(
        f"{outcome.trials} candidates measured on {tuned.runner}"
        + (f"; failed: {failures}" if failures else "")
    )
    lines += [f"  first {kind}: {text.splitlines()[0]}" for kind, text in outcome.messages.items()]
    network = tuned.network
    if network is None:
        lines.append("nothing was better than the default choices")
    else:
        lines += [
            f"{'whole network' if one is network else 'and'}: {one.before:,.0f} → "
            f"{one.after:,.0f} {one.unit}, ratio {one.ratio:.3f}"
            for one in (network, *network.beside)
        ]
        lines.append(
            f"{len(tuned.kept)} kernels kept in {tuned.database}"
            if tuned.kept
            else "nothing new was kept"
        )
    return lines


def said(event: Event) -> str:
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
            whole = f"; network estimated {network:.3f}" if network is not None else ""
            return (
                f"{event['task']}: {event['measured']} of {event['legal']} measured, best "
                f"{event['best']:.3f}{whole} ({event['trials']} trials)"
            )
        case "final":
            return f"{event['task']}: the best against the default"
        case "network":
            return "measuring the whole network, before and after"
        case "dropped":
            return (
                f"{event['task']}: inside the network no gain beyond noise ({event['ratio']:.3f})"
            )
        case "lost":
            left = event["left"]
            rest = f"trying {left} of the winners" if left else "none of the winners is kept"
            return f"the whole network got no faster ({event['ratio']:.3f}): {rest}"
        case "torn":
            return f"{event['file']}: the last record was only half written, and is dropped"
        case "device-fault":
            return f"{event['device']}: {event['text']}; trying again"
        case "device-aside":
            return f"{event['device']} does not answer, set aside: {event['text']}"
        case "device-back":
            return f"{event['device']} is back"
        case "devices-gone":
            return f"no device answers; waiting up to {event['seconds']:g} s for one"
        case "device-doubt":
            return f"{event['device']}: {event['text']}"
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
    ]
