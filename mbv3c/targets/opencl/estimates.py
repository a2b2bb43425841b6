"""Estimate all knobs by the cost model of a GPU: no library is built, and nothing runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.kernels import SCHEDULES
from mbv3c.tuning import search
from mbv3c.tuning.database import Task
from mbv3c.tuning.state import State
from mbv3c.tuning.tuner import SearchResult

UNIT = "estimated clocks"
DESCRIPTION = "the cost model (a roofline; it was compared with no GPU)"


@dataclass(frozen=True)
class Estimates:
    """What the cost model says about a network's kernels.

    Attributes:
        outcome: estimates of every legal choice of every kernel, in `UNIT`.
        sentence: the conclusion, for people.
    """

    outcome: SearchResult
    sentence: str


def estimate(tasks: Sequence[Task], gpu: Gpu) -> Estimates:
    """Estimate all legal knobs of some kernels by `LaunchWork.clocks`."""
    states = [_estimated(task, gpu) for task in tasks]
    better = [state for state in states if state.search.best != 0]
    outcome = SearchResult(states, trials=sum(len(state.search.tiles) for state in states))
    if better:
        return Estimates(
            outcome,
            f"of {len(better)} kernels the default is not the choice of the least estimate; "
            "nothing is kept, since an estimate is no measurement",
        )
    return Estimates(
        outcome,
        "every default is the choice of the least estimate, since the rules go by the same "
        "numbers: estimating finds nothing better, measuring on a device may",
    )


def _estimated(task: Task, gpu: Gpu) -> State:
    schedule = SCHEDULES[task.kind]
    default = schedule.default(task.shape, gpu)
    clocks = {
        tile: schedule.work(task.shape, tile, gpu).clocks(gpu)
        for tile in schedule.legal(task.shape, gpu)
    }
    relative = {tile: estimated / clocks[default] for tile, estimated in clocks.items()}
    begun = search.start(list(clocks), default, relative)
    return State(task, begun, np.random.default_rng(0), clocks[default])
