"""Tune a network for an NPU, from the model to the front of cycles against SRAM, and say it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from mbv3c.errors import UsageError
from mbv3c.figures import figure
from mbv3c.job import Job
from mbv3c.prepare import prepare
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u.accepted import check_image, check_types
from mbv3c.targets.ethos_u.compiling import lowering, npu_of, on_device
from mbv3c.targets.ethos_u.devices import (
    ARENAS,
    MEANS,
    Knobs,
    NpuTarget,
    canonical,
    memories,
    sram_of,
)
from mbv3c.targets.ethos_u.loops import check_loops
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.tuning.choose import fastest
from mbv3c.targets.ethos_u.tuning.estimate_jobs import asker
from mbv3c.targets.ethos_u.tuning.estimates import (
    FAILED,
    OK,
    RUNNER,
    Estimate,
    Explored,
    Lowered,
    describe,
    describe_in_memories,
    estimates_for,
    explore,
    front,
    kib,
)
from mbv3c.targets.ethos_u.vela import ESTIMATED
from mbv3c.tuning.choices import OWN
from mbv3c.tuning.request import TuneRequest

_KIB = 1024


@dataclass(frozen=True)
class NpuTuning:
    """What `tune` knows of a network.

    Attributes:
        database: the folder of the estimates.
        target: the device.
        network: name of the network.
        sram_bytes: the budget that was given; None for the device's own.
        explored: all estimates.
    """

    database: Path
    target: NpuTarget
    network: str
    sram_bytes: int | None
    explored: Explored

    @property
    def fronts(self) -> dict[str, list[Estimate]]:
        """The front of each kind of memories, the device's own first.

        Which memories there are is a matter of the board: choices of one kind are no alternatives
        to those of another.
        """
        estimates: dict[str, list[Estimate]] = {memories(Knobs(), self.target): []}
        for knobs, estimate in self.explored.known.items():
            estimates.setdefault(memories(knobs, self.target), []).append(estimate)
        return {name: front(ones) for name, ones in estimates.items()}

    @property
    def default(self) -> Estimate | None:
        """What `compile` takes without a database and without options."""
        return self.explored.known.get(canonical(Knobs(), self.target))

    @property
    def best(self) -> Estimate | None:
        """What `compile` takes with this database, under this budget; None if nothing fits."""
        return fastest(self.explored.known, Knobs(), (), self.target, self.budget)

    @property
    def budget(self) -> int | None:
        """Bytes of SRAM: those that were given, or the device's own."""
        return self.sram_bytes or sram_of(Knobs(), self.target)

    def lines(self) -> Iterator[str]:
        """Say what the tuning achieved."""
        explored = self.explored
        yield f"{self.network} on {self.target.name}: all figures are {ESTIMATED}"
        yield f"{'cycles':>14}{'ms':>9}{'SRAM':>11}{'DRAM':>11}{'flash':>11}   choice"
        for name, ones in self.fronts.items():
            yield f"front of {name}:"
            yield from (self._row(estimate) for estimate in ones)
        default = self.default
        if default is not None and not any(default in ones for ones in self.fronts.values()):
            yield "not on a front:"
            yield self._row(default)
        yield (
            f"{explored.estimated} choices estimated now, {len(explored.known)} known; "
            f"{explored.same} are the same as others, {len(explored.skipped)} were not needed"
        )
        bad = [estimate for estimate in explored.known.values() if estimate.outcome == FAILED]
        if bad:
            first = f"{describe(bad[0].chosen)}: {bad[0].said}"
            yield f"vela failed on {len(bad)} of them; the first is {first}"
        if explored.stopped:
            yield f"stopped by {explored.stopped}: run it again to go on"
        if self.best is None and self.budget is not None:
            yield f"nothing fits {kib(self.budget)} of SRAM; lower --resolution or --width"
        root = self.database.parent.parent
        where = "" if root == OWN else f" --tune-logs {root}"
        yield f"in {self.database}; `mbv3c compile --target {self.target.name}{where}` uses it"

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        explored = self.explored
        on_front = [estimate for ones in self.fronts.values() for estimate in ones]
        return {
            "database": str(self.database),
            "device": self.target.name,
            "runner": RUNNER,
            "figures": ESTIMATED,
            "network": self.network,
            "sram_budget_bytes": self.budget,
            "estimated": explored.estimated,
            "known": len(explored.known),
            "same": explored.same,
            "skipped": [
                {"knobs": knobs.to_json(), "reason": why}
                for knobs, why in explored.skipped.items()
            ],
            "stopped": explored.stopped or None,
            "front": [self._row_json(estimate) for estimate in on_front],
            "default": self._row_json(self.default) if self.default else None,
            "best": self._row_json(self.best) if self.best else None,
            "choices": [self._row_json(estimate) for estimate in explored.known.values()],
        }

    def draw(self, path: Path, *, force: bool) -> None:
        """Write a picture of cycles against SRAM: all choices, the fronts, default and budget.

        Raises:
            UsageError: as `figures.figure` says.
        """
        title = f"{self.network} on {self.target.name}, {ESTIMATED}"
        with figure(path, title, "SRAM, KiB", "cycles, million", force=force) as axes:
            for number, (name, ones) in enumerate(self.fronts.items()):
                color = f"C{number}"
                every = [
                    estimate
                    for knobs, estimate in self.explored.known.items()
                    if memories(knobs, self.target) == name and estimate.outcome == OK
                ]
                axes.plot(*_places(every), "o", color=color, alpha=0.35, markersize=5)
                steps: dict[str, Any] = {"drawstyle": "steps-post", "marker": "o", "markersize": 5}
                axes.plot(*_places(ones), color=color, label=f"front of {name}", **steps)
                for one, x, y in zip(ones, *_places(ones), strict=True):
                    text = describe_in_memories(one.chosen)
                    axes.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=6)
            for estimate, label, marker in (
                (self.default, "compile's default", "D"),
                (self.best, "best that fits", "*"),
            ):
                if estimate is not None:
                    size = 13 if marker == "*" else 8
                    look: dict[str, Any] = {
                        "color": "black",
                        "fillstyle": "none",
                        "markersize": size,
                    }
                    axes.plot(*_places([estimate]), marker, label=label, **look)
            if self.budget is not None:
                label = f"budget, {kib(self.budget)}"
                axes.axvline(self.budget / _KIB, color="black", linestyle="--", label=label)
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.legend()

    def fits(self, estimate: Estimate) -> bool:
        return estimate.sram_bytes is not None and (
            self.budget is None or estimate.sram_bytes <= self.budget
        )

    def _row_json(self, estimate: Estimate) -> dict[str, Any]:
        return {
            "knobs": estimate.knobs,
            "memories": memories(estimate.chosen, self.target),
            "outcome": estimate.outcome,
            "cycles": estimate.cycles,
            "milliseconds": estimate.milliseconds,
            "sram_bytes": estimate.sram_bytes,
            "dram_bytes": estimate.dram_bytes,
            "flash_bytes": estimate.flash_bytes,
            "fits": self.fits(estimate),
        }

    def _row(self, estimate: Estimate) -> str:
        sizes = (estimate.sram_bytes, estimate.dram_bytes, estimate.flash_bytes)
        shown = "".join(f"{'–' if not size else kib(size):>11}" for size in sizes)
        marks = [
            *(["compile's default"] if estimate == self.default else []),
            *(["best, which compile takes now"] if estimate == self.best else []),
            *(["over the SRAM"] if not self.fits(estimate) else []),
        ]
        marked = f"  ← {', '.join(marks)}" if marks else ""
        return (
            f"{estimate.cycles or 0:>14,}{estimate.milliseconds or 0.0:>9.2f}{shown}   "
            f"{describe(estimate.chosen)}{marked}"
        )


def check_tuning(request: TuneRequest) -> None:
    """Make sure that a request makes sense for an NPU.

    Raises:
        UsageError: it does not.
    """
    if request.runner not in (None, RUNNER):
        raise UsageError(f"--runner {request.runner} is for CPUs; for an NPU there is {RUNNER}")
    foreign = [f"--{name.replace('_', '-')}" for name in _FOR_CPUS if name in request.given]
    if foreign:
        raise UsageError(f"{', '.join(foreign)} are for CPUs: here every choice is tried")
    if (request.trials is not None and request.trials < 1) or (
        request.seconds is not None and request.seconds <= 0
    ):
        raise UsageError("--trials and --minutes must be above 0")
    if request.sram_bytes is not None and request.sram_bytes < _KIB:
        raise UsageError(
            f"--sram {request.sram_bytes // _KIB} makes no sense; give a number of KiB, such as "
            "512"
        )


_FOR_CPUS = (
    *("patience", "tuning_seed", "precision", "keep_float"),
    *("device", "tracker", "key", "timeout", "secret"),
)


def tune(model: onnx.ModelProto, job: Job, request: TuneRequest, progress: Progress) -> NpuTuning:
    """Estimate what the choices for a network cost, and keep that in the database.

    The network is quantized once, exactly as `compile` does, and lowered once per way to compute
    means. A budget of SRAM is also tried as the size of the arena.

    Raises:
        ModelError: the network cannot be quantized, or only a part of it fits the NPU.
        NothingEstimatedError: vela failed on every choice.
        DatabaseError: the database is damaged, in use, or for something else.
        Mbv3cError: estimates are to be jobs, and none can be done.
    """
    check_image(model)
    check_loops(model)
    target, sram_bytes = npu_of(job), request.sram_bytes
    database = estimates_for(request.root, target)
    with database.only_one():
        if database.torn():
            progress(f"{database.folder}: the last record was only half written, and is dropped")
        quantized = device_graph(prepare(model, job, progress, partial(on_device, job)).graph)
        check_types(quantized, target)
        progress("partitioning and lowering to TOSA")
        forms = {
            mean: npu_part(partition(quantized, lowering(mean, target))).tosa for mean in MEANS
        }
        with asker(target, request, progress) as elsewhere:
            explored = explore(
                Lowered(model.graph.name, forms),
                target,
                database,
                arenas=(*ARENAS, sram_bytes) if sram_bytes is not None else ARENAS,
                trials=request.trials,
                seconds=request.seconds,
                report=progress,
                elsewhere=elsewhere,
            )
    return NpuTuning(database.folder, target, model.graph.name, sram_bytes, explored)


def _places(ones: list[Estimate]) -> tuple[list[float], list[float]]:
    placed = [point for point in ones if point.cycles is not None and point.sram_bytes is not None]
    return [point.rank[1] / _KIB for point in placed], [point.rank[0] / 1e6 for point in placed]
