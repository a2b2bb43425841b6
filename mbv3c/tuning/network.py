"""Tune a network from beginning to end: search, prove, and keep what makes it faster."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mbv3c.bench.contenders import BUNDLE
from mbv3c.bench.latency import take_turns
from mbv3c.bench.processors import choose_cpus
from mbv3c.bench.statistics import ratio
from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.counting import count_kernels
from mbv3c.execution.cycles import CYCLES, estimator_for
from mbv3c.execution.llvm import LLVM_REMEDY
from mbv3c.execution.toolbox import emulator_kit, native_arch
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.lower import Lowered, lower
from mbv3c.lowering.machine import Machine
from mbv3c.parity.inputs import parity_inputs
from mbv3c.passes import run_pipeline
from mbv3c.targets import cpu
from mbv3c.targets.cores import machine
from mbv3c.targets.table import Target
from mbv3c.tuning.choices import Measured, device_of
from mbv3c.tuning.database import Database, Record, best, folder_for
from mbv3c.tuning.runners import (
    INSTRUCTIONS,
    CountingRunner,
    LocalRunner,
    Runner,
    write_manifest,
)
from mbv3c.tuning.tasks import tasks_of
from mbv3c.tuning.tune import Budget, Event, Outcome, Tuner

RUNNERS = ("local", "emulated", "estimated")
_RUNS = 200


@dataclass(frozen=True)
class Network:
    """The whole network before and after, measured in one run.

    Attributes:
        before, after: with the default choices, and with the best that are known; the least of
            all medians of blocks for times.
        ratio: after to before; the median over interleaved blocks for times.
        unit: of both.
        beside: the same in the other units that the runner can tell; they decide nothing.
    """

    before: float
    after: float
    ratio: float
    unit: str
    beside: tuple["Network", ...] = ()


@dataclass(frozen=True)
class Tuned:
    """What `tune` did.

    Attributes:
        database: the folder of the records.
        device: `FAMILY:DEVICE`.
        runner: what measured.
        outcome: of the search.
        kept: the winners that are in the database now.
        network: the whole network; None if nothing won.
    """

    database: Path
    device: str
    runner: str
    outcome: Outcome
    kept: list[Record]
    network: Network | None

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
) -> Tuned:
    """Tune the kernels of a model in fp32 and keep those that make the whole of it faster.

    Args:
        model: the model as given, with fixed shapes.
        target: a CPU of the table.
        root: the folder of all databases.
        runner_name: one of `RUNNERS`; None for what fits the target.
        budget: when to stop.
        seed: decides which candidates are drawn.
        report: told what happens.

    Raises:
        UsageError: the runner does not fit the target.
        ToolError: the emulator has not been fetched.
        NothingMeasuredError: all measurements failed.
        DatabaseError: the database is damaged, in use, or for something else.
    """
    resolved = cpu.resolve(target)
    cores = machine(resolved, cpu.tvm_target(resolved))
    runner = _runner(target, runner_name)
    optimized, _ = run_pipeline(model)
    default = _lowered(optimized, resolved, cores, NO_CHOICES)
    database = Database(folder_for(root, device_of(target)))
    with database.only_one():
        if database.torn():
            report({"event": "torn", "file": str(database.folder)})
        tuner = Tuner(cores, resolved, runner, database, report)
        outcome = tuner.run(tasks_of([default.plan]), budget, seed)
        kept = best([*database.records(), *outcome.winners])
        network = None
        if kept:
            report({"event": "network"})
            tuned = _lowered(optimized, resolved, cores, Measured(kept))
            network = _compare(default, tuned, resolved, runner, model)
            won = network.ratio < 1.0
            if won:
                database.append(outcome.winners)
            else:
                report({"event": "lost", "ratio": network.ratio})
                outcome.winners.clear()
    return Tuned(
        database.folder,
        device_of(target),
        runner.description,
        outcome,
        list(outcome.winners),
        network,
    )


def _runner(target: Target, name: str | None) -> Runner:
    here = cpu.resolve(target).arch == native_arch()
    name = name or ("local" if here else "emulated")
    if name not in RUNNERS:
        raise UsageError(f"unknown runner {name!r}; known: {', '.join(RUNNERS)}")
    if name == "local":
        if not here:
            raise UsageError(
                f"{target.name} does not run on this machine; --runner emulated counts its "
                "instructions, estimated its cycles"
            )
        return LocalRunner(tuple(choose_cpus(1)))
    if not target.emulated_as:
        raise UsageError(f"nothing here emulates {target.name}; --runner local times it")
    kit = emulator_kit()
    if kit is None:
        raise ToolError("the emulator is not here; fetch it with `mbv3c doctor --fetch`")
    estimator = estimator_for(target)
    if name == "estimated" and estimator is None:
        raise ToolError(f"llvm-mca, which estimates cycles, is not here; {LLVM_REMEDY}")
    unit = CYCLES if name == "estimated" else INSTRUCTIONS
    return CountingRunner(kit, target.emulated_as, unit, estimator)


def _lowered(model: onnx.ModelProto, target: Target, cores: Machine, choices: Choices) -> Lowered:
    return lower(model, cores, cpu.tvm_target(target), choices=choices)


def _compare(
    default: Lowered, tuned: Lowered, target: Target, runner: Runner, model: onnx.ModelProto
) -> Network:
    """Measure both networks in turns."""
    with tempfile.TemporaryDirectory(prefix="mbv3c-tune-") as name:
        folders = [Path(name) / side for side in ("before", "after")]
        x = parity_inputs(default.plan.input_shape)[0]
        for folder, lowered in zip(folders, (default, tuned), strict=True):
            golden = folder / GOLDEN_INPUT
            golden.parent.mkdir(parents=True)
            np.save(golden, x)
            cpu.build(lowered.module, target, folder / LIBRARY, symbols=True)
            write_manifest(folder, target.name)
        if isinstance(runner, CountingRunner):
            before, after = (
                _counted(runner, folder, lowered.kernels)
                for folder, lowered in zip(folders, (default, tuned), strict=True)
            )
            own, *beside = (
                Network(before[unit], after[unit], after[unit] / before[unit], unit)
                for unit in runner.units
            )
            return replace(own, beside=tuple(beside))
        assert isinstance(runner, LocalRunner)
        return _timed(folders, runner)


def _counted(runner: CountingRunner, folder: Path, kernels: Sequence[str]) -> dict[str, float]:
    """Return by unit what all kernels cost; what TVM's runtime executes around them is noise."""
    counted = count_kernels(runner.kit, runner.cpu, folder, folder / "y.npy")
    found = {unit: runner.costs(counted, folder, unit) for unit in runner.units}
    return {
        unit: float(sum(costs[name] for name in set(kernels))) for unit, costs in found.items()
    }


def _timed(folders: Sequence[Path], runner: LocalRunner) -> Network:
    sides = {folder.name: (BUNDLE, folder) for folder in folders}
    blocks = list(take_turns(sides, runner.cpus, _RUNS).blocks.values())
    found = ratio(blocks[1], blocks[0])
    least = [min(1e3 * sorted(one)[len(one) // 2] for one in side) for side in blocks]
    return Network(least[0], least[1], found.median, runner.unit)


def summary_lines(tuned: Tuned) -> list[str]:
    """Return what people want to know."""
    outcome = tuned.outcome
    lines = [f"{'kernel':<44}{'calls':>5}{'measured':>12}{'best':>8}  of the default"]
    for state in outcome.states:
        seen = f"{len(state.search.seen)}/{len(state.search.tiles)}"
        relative = state.search.seen[state.search.best] or 1.0
        lines.append(f"{state.task.name:<44}{state.task.calls:>5}{seen:>12}{relative:>8.3f}")
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
        case "lost":
            return f"the whole network got no faster ({event['ratio']:.3f}): nothing is kept"
        case "torn":
            return f"{event['file']}: the last record was only half written, and is dropped"
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
