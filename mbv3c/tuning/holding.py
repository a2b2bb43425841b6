"""Who holds contests, and what they show: this process with a meter, or whoever does jobs."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

import tvm

from mbv3c.errors import Mbv3cError
from mbv3c.execution.device.pool import DevicesGoneError
from mbv3c.parity.tolerance import CANDIDATE_ERRORS
from mbv3c.scratch import scratch_folder
from mbv3c.tuning.contest import TunableKernels, write_candidates
from mbv3c.tuning.database import Task
from mbv3c.tuning.meters import ContestTimeoutError, Meter, same

_LONGEST = 120.0  # seconds for a contest

# Contests are measured side by side where there are several devices, and built one by one: what
# TVM's compiler does in several threads at once is nowhere promised.
BUILDING = threading.Lock()


class ContestFailedError(Mbv3cError):
    """A contest shows nothing, because of one of its candidates or of all.

    Attributes:
        outcome: what failed, in the words of a record: build, run or timeout.
    """

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True)
class Wanted:
    """A contest to hold.

    Attributes:
        task: the kernel.
        tiles: the candidates, the default first.
    """

    task: Task
    tiles: Sequence[Any]

    @property
    def knobs(self) -> list[dict[str, Any]]:
        """The candidates as plain values."""
        return [asdict(tile) for tile in self.tiles]


@dataclass(frozen=True)
class Judged:
    """What a contest showed.

    Attributes:
        costs: costs of every candidate, one per round.
        right: whether every candidate computes what the first one does, up to rounding.
    """

    costs: list[list[float]]
    right: list[bool]

    def cost(self, candidate: int) -> float:
        return median(self.costs[candidate])


class Holder(Protocol):
    """Holds contests."""

    def prepare(self, wanted: Iterator[Wanted]) -> None:
        """Be told which contests come next, the first for certain, the others as is likely.

        It takes of them what it can do at once; what it does not take is not worked out.

        Raises:
            Mbv3cError: no contest can be held any more.
        """

    def hold(self, wanted: Wanted) -> Judged:
        """Hold a contest.

        Raises:
            ContestFailedError: it shows nothing.
            DevicesGoneError: nothing is left that measures.
            Mbv3cError: no contest can be held any more.
        """


@dataclass(frozen=True)
class HeldHere:
    """Contests that are built in this process, and measured by a meter."""

    kernels: TunableKernels
    meter: Meter

    def prepare(self, wanted: Iterator[Wanted]) -> None:
        """Do nothing: a contest is built when it is held."""

    def hold(self, wanted: Wanted) -> Judged:
        return held(wanted.task, wanted.knobs, self.kernels, self.meter)


def held(
    task: Task, knobs: Sequence[Mapping[str, Any]], kernels: TunableKernels, meter: Meter
) -> Judged:
    """Build a contest and have it measured.

    Raises:
        ContestFailedError: it cannot be built or run, or takes too long.
        DevicesGoneError: nothing is left that measures.
    """
    try:
        with scratch_folder("tune") as folder:
            with BUILDING:
                contest = write_candidates(task, knobs, kernels, folder)
            result = meter.measure(contest, _LONGEST)
    except DevicesGoneError:
        raise
    except Mbv3cError as error:
        outcome = "timeout" if isinstance(error, ContestTimeoutError) else "run"
        raise ContestFailedError(outcome, str(error)) from error
    except (tvm.error.InternalError, RuntimeError, ValueError) as error:
        raise ContestFailedError("build", str(error)) from error
    tolerance = CANDIDATE_ERRORS[task.shape.dtype]
    right = [same(result.outputs, number, tolerance) for number in range(len(knobs))]
    return Judged(result.costs, right)
