"""Who measures candidates, and in which unit."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import Count, count_kernels, programs_of
from mbv3c.execution.emulator.cycles import (
    CYCLES,
    Estimator,
    cycles_by_kernel,
    instructions_by_kernel,
)
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.timing.latency import processor_name, take_turns, worker
from mbv3c.execution.timing.worker import BUNDLE, CONTEST, OUTPUTS
from mbv3c.feeds import numbered_files
from mbv3c.tuning.contest import Contest

_ROUNDS = 30
_RUNS = 2000  # of each whole network: a gain of some percent must show beside other work
_RUNS_BY_CALL = 400

INSTRUCTIONS = "instructions"
_COUNTED = {INSTRUCTIONS: "executed instructions", CYCLES: CYCLES}


@dataclass(frozen=True)
class ContestResult:
    """What a contest showed.

    Attributes:
        costs: costs of every candidate, one per round.
        outputs: outputs of every candidate, all from equal inputs.
    """

    costs: list[list[float]]
    outputs: list[NDArray[Any]]

    def cost(self, candidate: int) -> float:
        return median(self.costs[candidate])


@dataclass(frozen=True)
class BuiltNetwork:
    """A whole network, built.

    Attributes:
        folder: a folder with its library and input, laid out as a bundle.
        kernels: the names of its kernels.
    """

    folder: Path
    kernels: tuple[str, ...]


Calls = list[list[list[tuple[str, float]]]]  # by block and run, the name and cost of every call
Costs = list[list[float]]  # by block and run


class Meter(Protocol):
    """Measures the candidates of a contest side by side.

    Attributes:
        unit: unit of the costs.
        description: what runs them, for people.
        slots: how many contests it takes at once, each from a separate thread.
    """

    @property
    def slots(self) -> int: ...

    @property
    def unit(self) -> str: ...

    @property
    def description(self) -> str: ...

    def measure(self, contest: Contest, timeout: float) -> ContestResult:
        """Run a contest.

        Raises:
            ContestTimeoutError: it took longer than `timeout` seconds.
            ToolError: it failed.
            DevicesGoneError: nothing is left that measures.
        """


class NetworkMeter(Meter, Protocol):
    """Measures whole networks, too."""

    def calls(self, wholes: Sequence[BuiltNetwork]) -> dict[BuiltNetwork, Calls]:
        """Measure every call of networks that take turns, in the runner's unit.

        Raises:
            ToolError: one of them fails.
            DevicesGoneError: nothing is left that measures.
        """

    def wholes(self, wholes: Sequence[BuiltNetwork]) -> dict[str, dict[BuiltNetwork, Costs]]:
        """Measure networks that take turns; by unit, of all that the runner can tell.

        Raises:
            ToolError: one of them fails.
            DevicesGoneError: nothing is left that measures.
        """


class ContestTimeoutError(ToolError):
    """A contest did not end in time."""


@contextmanager
def _in_time(timeout: float, late: str) -> Iterator[None]:
    """Tell a contest that took too long from one that failed otherwise."""
    begin = time.monotonic()
    try:
        yield
    except ToolError as error:
        if time.monotonic() - begin >= timeout:
            raise ContestTimeoutError(f"{late} {timeout:.0f} s") from error
        raise


@dataclass(frozen=True)
class LocalMeter:
    """Times candidates on this machine, in a process of their own, in turns.

    Attributes:
        cpus: the processors to stay on; so many threads there are.
        device: the OpenCL device that computes, by whose clock times are; empty for a CPU.
    """

    cpus: tuple[int, ...]
    unit: str = "us"
    slots: int = 1
    device: str = ""

    @property
    def description(self) -> str:
        if self.device:
            return self.device
        return f"{processor_name()}, threads {len(self.cpus)}"

    @property
    def _kind(self) -> str:
        """TVM's name of the device."""
        return "opencl" if self.device else "cpu"

    def measure(self, contest: Contest, timeout: float) -> ContestResult:
        timing = worker(CONTEST, contest.folder, self.cpus, self._kind, timeout=timeout)
        with _in_time(timeout, "no answer for"), timing as started:
            rounds = started.measure(_ROUNDS)
        stored = np.load(contest.folder / OUTPUTS)
        outputs = contest.results([stored[name] for name in stored.files])
        return ContestResult(contest.costs(rounds), outputs)

    def calls(self, wholes: Sequence[BuiltNetwork]) -> dict[BuiltNetwork, Calls]:
        return self._turns(CONTEST, wholes, _RUNS_BY_CALL)

    def wholes(self, wholes: Sequence[BuiltNetwork]) -> dict[str, dict[BuiltNetwork, Costs]]:
        measured = self._turns(BUNDLE, wholes, _RUNS)
        return {self.unit: {network: microseconds(blocks) for network, blocks in measured.items()}}

    def _turns(
        self, mode: str, wholes: Sequence[BuiltNetwork], runs: int
    ) -> dict[BuiltNetwork, Any]:
        sides = {str(network.folder): (mode, network.folder) for network in wholes}
        blocks = take_turns(sides, self.cpus, runs, self._kind).blocks
        return {network: blocks[str(network.folder)] for network in wholes}


@dataclass(frozen=True)
class CountingMeter:
    """Counts executed instructions on an emulated processor: exact and repeatable, but no time.

    Attributes:
        kit: the emulator.
        cpu: the processor, in qemu's words.
        unit: unit of the costs: instructions, or the cycles that are estimated from them.
        estimator: what estimates cycles; None if nothing does.
    """

    kit: EmulatorKit
    cpu: str
    unit: str = INSTRUCTIONS
    estimator: Estimator | None = None
    slots: int = 1

    @property
    def description(self) -> str:
        by = f" by {self.estimator.description}" if self.estimator and self.unit == CYCLES else ""
        return f"emulated {self.cpu}, one thread, {_COUNTED[self.unit]}{by}"

    @property
    def programs(self) -> str:
        """Say which programs decide what is counted, and their versions."""
        by = f", {self.estimator.description}" if self.estimator and self.unit == CYCLES else ""
        return programs_of(self.kit) + by

    @property
    def units(self) -> list[str]:
        """Return the units that this meter can tell, `unit` first."""
        return [self.unit, *(unit for unit in self._tellers() if unit != self.unit)]

    def costs(self, counted: Count, folder: Path, unit: str) -> Counter[str]:
        """Return what every kernel of a library with symbols costs, all calls.

        Raises:
            ToolError: one of LLVM's programs fails.
        """
        return self._tellers()[unit](counted, folder)

    def _tellers(self) -> dict[str, Callable[[Count, Path], Counter[str]]]:
        tellers: dict[str, Callable[[Count, Path], Counter[str]]] = {
            INSTRUCTIONS: instructions_by_kernel
        }
        if self.estimator is not None:
            tellers[CYCLES] = partial(cycles_by_kernel, estimator=self.estimator)
        return tellers

    def measure(self, contest: Contest, timeout: float) -> ContestResult:
        first = contest.folder / "y.npy"
        with _in_time(timeout, "not counted within"):
            counted = count_kernels(self.kit, self.cpu, contest.folder, first, timeout=timeout)
        counts = self.costs(counted, contest.folder, self.unit)
        calls = Counter(contest.calls)
        names = [contest.calls[call] for call in contest.candidates]
        count = contest.before + contest.outputs * len(names)
        outputs = [np.load(path) for path in islice(numbered_files(first), count)]
        costs = [[counts[name] / calls[name]] for name in names]
        return ContestResult(costs, contest.results(outputs))

    def calls(self, wholes: Sequence[BuiltNetwork]) -> dict[BuiltNetwork, Calls]:
        """Count networks; all calls of a kernel are one."""
        return {network: [[list(self._kernels(network, self.unit).items())]] for network in wholes}

    def wholes(self, wholes: Sequence[BuiltNetwork]) -> dict[str, dict[BuiltNetwork, Costs]]:
        """Count networks; what TVM's runtime executes around the kernels is noise."""
        return {
            unit: {network: [[sum(self._kernels(network, unit).values())]] for network in wholes}
            for unit in self.units
        }

    def _kernels(self, whole: BuiltNetwork, unit: str) -> dict[str, float]:
        costs = self.costs(_counted(self.kit, self.cpu, whole.folder), whole.folder, unit)
        return {name: float(costs[name]) for name in dict.fromkeys(whole.kernels)}


@lru_cache(maxsize=4)  # each network is asked for several times, and never changes
def _counted(kit: EmulatorKit, cpu: str, folder: Path) -> Count:
    return count_kernels(kit, cpu, folder, folder / "y.npy")


def microseconds(blocks: Costs) -> Costs:
    """Convert milliseconds."""
    return [[1e3 * cost for cost in block] for block in blocks]


def same(outputs: Sequence[NDArray[Any]], candidate: int, tolerance: float) -> bool:
    """Say whether a candidate's output is that of the first one, up to rounding.

    What is not finite, as TVM's logarithm of what was drawn below 0, must be equal.
    """
    wanted = outputs[0].astype(np.float64)
    got = outputs[candidate].astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return False
    got, wanted = got[finite], wanted[finite]
    scale = float(np.abs(wanted).max(initial=1.0))
    error = np.abs(got - wanted).max(initial=0.0)
    return bool(np.isfinite(got).all() and error <= tolerance * scale)
