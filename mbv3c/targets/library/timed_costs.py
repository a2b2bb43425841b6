"""What networks cost in time, kernel by kernel, on the machine that mbv3c runs on.

Kernels that no table knows run one after the other in one library, as they do in a network, many
times; what counts is the median of each. Times of a machine that does other things are not taken:
the question is refused, and may be asked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles

from mbv3c.costs.database import CostContext
from mbv3c.costs.types import Kind
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.timing.latency import Turns, choose_cpus, processor_name, take_turns
from mbv3c.execution.timing.worker import BUNDLE, PROFILE
from mbv3c.targets.library.costs import RunningCoster

MICROSECONDS = "us"
_RUNS = 200
_STEADY = 0.1  # distance of the quartiles of blocks, as a share of their median
_JITTER = 1.0  # microseconds of that distance, which the shortest programs have of themselves
_KERNELS, _WHOLE = "kernels", "whole"


@dataclass
class TimingCoster(RunningCoster):
    """Times kernels on one of this machine's processors."""

    kind: Kind = field(default="measured", init=False)
    time: str = field(default=MICROSECONDS, init=False)
    digits: int = field(default=3, init=False)

    @cached_property
    def context(self) -> CostContext:
        """What decides costs: this machine's processor, too."""
        base, processor = super().context, f"{processor_name()}, {self.resolved.cpu}"
        return replace(base, versions={**base.versions, "processor": processor})

    def check(self) -> None:
        if not self.resolved.runs_natively:
            raise UsageError(
                f"{self.target.name} does not run on this machine, and nothing here emulates it: "
                "costs there are times, so ask on a machine where it runs"
            )
        self.backend.check_runs(self.target)

    def of_kernels(self, folder: Path, calls: Sequence[str]) -> list[float]:
        turns = take_turns({_KERNELS: (PROFILE, folder)}, choose_cpus(1), _RUNS)
        return _quiet_times(turns, calls)

    def of_network(self, folder: Path, calls: Sequence[str]) -> tuple[list[float], float]:
        sides = {_KERNELS: (PROFILE, folder), _WHOLE: (BUNDLE, folder)}
        turns = take_turns(sides, choose_cpus(1), _RUNS)
        each = _quiet_times(turns, calls)
        wholes = [1e3 * run for block in turns.blocks[_WHOLE] for run in block]
        return each, median(wholes) - sum(each)


def _quiet_times(turns: Turns, calls: Sequence[str]) -> list[float]:
    """Return the median microseconds of each call.

    Raises:
        ToolError: the machine was not quiet.
    """
    found = call_times(turns.blocks[_KERNELS], calls)
    if not turns.undisturbed or not found.steady:
        raise ToolError(
            f"this machine is busy: {turns.interruptions} interruptions of {turns.runs} runs, "
            f"whose times lie {found.spread}; costs here are "
            "times, so end what runs beside this and ask again: what was measured is kept"
        )
    return found.each


@dataclass(frozen=True)
class CallTimes:
    """What the calls of a library took, in microseconds.

    Attributes:
        each: the median of each call.
        quartiles: the quartiles of all calls together, by block of runs.
    """

    each: list[float]
    quartiles: tuple[float, float, float]

    @property
    def steady(self) -> bool:
        """Say whether the blocks agree; otherwise something else ran beside them."""
        lower, middle, upper = self.quartiles
        return upper - lower <= max(_JITTER, _STEADY * middle)

    @property
    def spread(self) -> str:
        """The quartiles in words."""
        return f"from {self.quartiles[0]:,.1f} to {self.quartiles[2]:,.1f} us (quartiles)"


def call_times(
    blocks: Sequence[Sequence[Sequence[tuple[str, float]]]], calls: Sequence[str]
) -> CallTimes:
    """Return what calls took, from the names and times of all calls by block and run.

    Raises:
        ToolError: other kernels were called.
    """
    known = set(calls)
    runs = [[[us for name, us in run if name in known] for run in block] for block in blocks]
    if any(len(run) != len(calls) for block in runs for run in block):
        raise ToolError("the library called other kernels than were built: report this")
    sums = [median(sum(run) for run in block) for block in runs]
    lower, middle, upper = quantiles(sums, n=4, method="inclusive")
    every = zip(*(run for block in runs for run in block), strict=True)
    return CallTimes([median(call) for call in every], (lower, middle, upper))
