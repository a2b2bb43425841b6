"""What is known of the kernels under way, and which of them is measured next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mbv3c.tuning.database import Task
from mbv3c.tuning.search import Search


@dataclass
class State:
    """A kernel under way.

    Attributes:
        random: generator that draws the candidates of this kernel alone, so that the order of
            kernels does not matter.
        cost: cost of the default choice, in the runner's unit; None until it was measured.
    """

    task: Task
    search: Search
    random: np.random.Generator
    cost: float | None = None

    @property
    def share(self) -> float:
        """What the network spends on it, with the best choice so far."""
        return self.task.calls * (self.cost or 0.0) * (self.search.seen[self.search.best] or 1.0)


def next_kernel(states: Sequence[State], patience: int) -> State | None:
    """Return the kernel on which a batch is spent: trials go where the time goes.

    Those that were not measured at all come first, the most work before. A kernel's turn
    comes the later the longer nothing better was found for it.
    """
    open_ = [
        state
        for state in states
        if (not state.search.done and state.search.stale < patience) or state.cost is None
    ]
    unknown = [state for state in open_ if state.cost is None]
    if unknown:
        return max(unknown, key=lambda state: state.task.calls * state.task.work)
    return max(
        open_,
        key=lambda state: state.share / (len(state.search.seen) * (1 + state.search.stale)),
        default=None,
    )


def network_cost(states: Sequence[State]) -> float | None:
    """Estimate the network's cost relative to the default's, from what was measured by itself."""
    if any(state.cost is None for state in states):
        return None
    before = sum(state.task.calls * (state.cost or 0.0) for state in states)
    return sum(state.share for state in states) / before
