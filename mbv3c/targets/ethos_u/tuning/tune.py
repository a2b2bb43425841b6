"""Tune a network for an NPU, from the model to the front of cycles against SRAM, and say it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from mbv3c.figures import figure
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.quantize import quantize_once
from mbv3c.targets.ethos_u.backend import check_image, check_types, lowering, npu_part
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.options import ARENAS, MEANS, Knobs, canonical, memories, sram_of
from mbv3c.targets.ethos_u.tools import require_npu_tools
from mbv3c.targets.ethos_u.tuning import explore as npu
from mbv3c.targets.ethos_u.tuning.choose import fastest
from mbv3c.targets.ethos_u.tuning.estimates import (
    FAILED,
    OK,
    Estimate,
    describe,
    estimates_for,
    kib,
)
from mbv3c.targets.ethos_u.tuning.explore import Explored
from mbv3c.targets.ethos_u.vela import ESTIMATED

_KIB = 1024

Progress = Callable[[str], None]


@dataclass(frozen=True)
class NpuTuning:
    """What `tune` knows of a network.

    Attributes:
        database: the folder of the estimates.
        target: the device.
        network: its name.
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
        found: dict[str, list[Estimate]] = {memories(Knobs(), self.target): []}
        for knobs, one in self.explored.known.items():
            found.setdefault(memories(knobs, self.target), []).append(one)
        return {name: npu.front(ones) for name, ones in found.items()}

    @property
    def default(self) -> Estimate | None:
        """What `compile` takes without a database and without options."""
        return self.explored.known.get(canonical(Knobs(), self.target))

    @property
    def best(self) -> Estimate | None:
        """What `compile` takes with this database, under the same budget; None if nothing fits."""
        return fastest(self.explored.known, Knobs(), (), self.target, self.budget)

    @property
    def budget(self) -> int | None:
        """Bytes of SRAM: those that were given, or the device's own."""
        return self.sram_bytes or sram_of(Knobs(), self.target)

    def fits(self, one: Estimate) -> bool:
        return one.sram_bytes is not None and (
            self.budget is None or one.sram_bytes <= self.budget
        )


def tune_npu(
    model: onnx.ModelProto,
    target: NpuTarget,
    root: Path,
    calibration: Calibration | None = None,
    *,
    sram_bytes: int | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    progress: Progress,
) -> NpuTuning:
    """Estimate what the choices for a network cost, and keep that in the database.

    The network is quantized once, exactly as `compile` does, and lowered once per way to compute
    means.

    Args:
        model: as given; with QDQ pairs it is taken as it is.
        target: the device.
        root: the folder of all databases.
        calibration: inputs to take ranges from; None for random ones.
        sram_bytes: a budget, which is also tried as size of the arena.
        trials: estimates to make at most.
        seconds: time after which no other one begins.
        progress: told what happens.

    Raises:
        ModelError: the network cannot be quantized, or not all of it fits the NPU.
        ToolError: the NPU's tools are missing.
        NothingEstimatedError: vela failed on every choice.
        DatabaseError: the database is damaged, in use, or for something else.
    """
    require_npu_tools()
    check_image(model)
    database = estimates_for(root, target)
    with database.only_one():
        if database.torn():
            progress(f"{database.folder}: the last record was only half written, and is dropped")
        quantized, _ = quantize_once(model, calibration, None, progress)
        check_types(quantized, target)
        progress("partitioning and lowering to TOSA")
        networks = {
            mean: npu_part(partition(quantized, lowering(mean, target))).tosa for mean in MEANS
        }
        arenas = (*ARENAS, sram_bytes) if sram_bytes is not None else ARENAS
        explored = npu.explore(
            networks,
            model.graph.name,
            target,
            database,
            arenas=arenas,
            trials=trials,
            seconds=seconds,
            report=progress,
        )
    return NpuTuning(database.folder, target, model.graph.name, sram_bytes, explored)


def tuned_json(tuned: NpuTuning) -> dict[str, Any]:
    """Return what `tune` prints as JSON."""
    explored = tuned.explored
    on_front = [one for ones in tuned.fronts.values() for one in ones]
    return {
        "database": str(tuned.database),
        "device": tuned.target.name,
        "runner": npu.RUNNER,
        "figures": ESTIMATED,
        "network": tuned.network,
        "sram_budget_bytes": tuned.budget,
        "estimated": explored.estimated,
        "known": len(explored.known),
        "same": explored.same,
        "skipped": [
            {"knobs": knobs.to_json(), "reason": why} for knobs, why in explored.skipped.items()
        ],
        "stopped": explored.stopped or None,
        "front": [_json(tuned, one) for one in on_front],
        "default": _json(tuned, tuned.default) if tuned.default else None,
        "best": _json(tuned, tuned.best) if tuned.best else None,
        "choices": [_json(tuned, one) for one in explored.known.values()],
    }


def _json(tuned: NpuTuning, one: Estimate) -> dict[str, Any]:
    return {
        "knobs": one.knobs,
        "memories": memories(one.chosen, tuned.target),
        "outcome": one.outcome,
        "cycles": one.cycles,
        "milliseconds": one.milliseconds,
        "sram_bytes": one.sram_bytes,
        "dram_bytes": one.dram_bytes,
        "flash_bytes": one.flash_bytes,
        "fits": tuned.fits(one),
    }


def tuned_lines(tuned: NpuTuning) -> Iterator[str]:
    """Say what came of it."""
    explored = tuned.explored
    yield f"{tuned.network} on {tuned.target.name}: all figures are {ESTIMATED}"
    yield f"{'cycles':>14}{'ms':>9}{'SRAM':>11}{'DRAM':>11}{'flash':>11}   choice"
    for name, ones in tuned.fronts.items():
        yield f"front of {name}:"
        yield from (_row(tuned, one) for one in ones)
    default = tuned.default
    if default is not None and not any(default in ones for ones in tuned.fronts.values()):
        yield "not on a front:"
        yield _row(tuned, default)
    yield (
        f"{explored.estimated} choices estimated now, {len(explored.known)} known; "
        f"{explored.same} are the same as others, {len(explored.skipped)} were not needed"
    )
    bad = [one for one in explored.known.values() if one.outcome == FAILED]
    if bad:
        first = f"{describe(bad[0].chosen)}: {bad[0].said}"
        yield f"vela failed on {len(bad)} of them; the first is {first}"
    if explored.stopped:
        yield f"stopped by {explored.stopped}: run it again to go on"
    if tuned.best is None and tuned.budget is not None:
        yield f"nothing fits {kib(tuned.budget)} of SRAM; lower --resolution or --width"


def _row(tuned: NpuTuning, one: Estimate) -> str:
    sizes = (one.sram_bytes, one.dram_bytes, one.flash_bytes)
    shown = "".join(f"{'–' if not size else kib(size):>11}" for size in sizes)
    marks = [
        *(["compile's default"] if one == tuned.default else []),
        *(["best, which compile takes now"] if one == tuned.best else []),
        *(["over the SRAM"] if not tuned.fits(one) else []),
    ]
    marked = f"  ← {', '.join(marks)}" if marks else ""
    return (
        f"{one.cycles or 0:>14,}{one.milliseconds or 0.0:>9.2f}{shown}   "
        f"{describe(one.chosen)}{marked}"
    )


def draw(tuned: NpuTuning, path: Path, *, force: bool) -> None:
    """Write a picture of cycles against SRAM: all choices, the fronts, default and budget.

    Raises:
        UsageError: as `figures.figure` says.
    """
    title = f"{tuned.network} on {tuned.target.name}, {ESTIMATED}"
    with figure(path, title, "SRAM, KiB", "cycles, million", force=force) as axes:
        for number, (name, ones) in enumerate(tuned.fronts.items()):
            color = f"C{number}"
            every = [
                one
                for knobs, one in tuned.explored.known.items()
                if memories(knobs, tuned.target) == name and one.outcome == OK
            ]
            axes.plot(*_places(every), "o", color=color, alpha=0.35, markersize=5)
            steps: dict[str, Any] = {"drawstyle": "steps-post", "marker": "o", "markersize": 5}
            axes.plot(*_places(ones), color=color, label=f"front of {name}", **steps)
        for one, label, marker in (
            (tuned.default, "compile's default", "D"),
            (tuned.best, "best that fits", "*"),
        ):
            if one is not None:
                size = 13 if marker == "*" else 8
                look: dict[str, Any] = {"color": "black", "fillstyle": "none", "markersize": size}
                axes.plot(*_places([one]), marker, label=label, **look)
        if tuned.budget is not None:
            label = f"budget, {kib(tuned.budget)}"
            axes.axvline(tuned.budget / _KIB, color="black", linestyle="--", label=label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend()


def _places(ones: list[Estimate]) -> tuple[list[float], list[float]]:
    placed = [one for one in ones if one.cycles is not None and one.sram_bytes is not None]
    return [one.rank[1] / _KIB for one in placed], [one.rank[0] / 1e6 for one in placed]
