"""Time runtimes beside each other, and tell their medians and ratios.

Each runs in a process of its own. All are pinned to one set of processors, and they take turns in
blocks with a pause between: thread pools go on spinning for a while after a call, and would
take the processors from whoever comes next.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from threading import Timer
from typing import IO, Any

from mbv3c.errors import ToolError, UsageError

Blocks = Sequence[Sequence[float]]
WORKER = "mbv3c.execution.timing.worker"


@dataclass(frozen=True)
class Times:
    """The times of a side, in milliseconds."""

    median_ms: float
    min_ms: float


@dataclass(frozen=True)
class Ratio:
    """Our time over theirs, below 1 where we are faster.

    Attributes:
        median: median ratio of neighbouring blocks.
        quartiles: first and third quartile of the ratios.
    """

    median: float
    quartiles: tuple[float, float]

    @property
    def steady(self) -> bool:
        """Say whether the blocks agree to a tenth; otherwise something else ran beside them."""
        lower, upper = self.quartiles
        return upper - lower <= 0.1 * self.median


@dataclass(frozen=True)
class Distribution:
    """How the times of a side are spread, in milliseconds.

    Attributes:
        median_ms: half of the runs were no slower.
        p90_ms, p99_ms: 90 and 99 of 100 runs were no slower; None of fewer than 10 and 100 runs,
            which do not tell.
        min_ms, max_ms: the quickest run and the slowest.
        runs: number of runs.
    """

    median_ms: float
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float
    max_ms: float
    runs: int


def distribution(runs: Sequence[float]) -> Distribution:
    """Summarize the times of some runs, in milliseconds; there is one at least."""
    if len(runs) == 1:
        (only,) = runs
        return Distribution(only, None, None, only, only, 1)
    cuts = quantiles(runs, n=100, method="inclusive")
    p90, p99 = (
        cuts[share - 1] if len(runs) >= 100 / (100 - share) else None for share in (90, 99)
    )
    return Distribution(median(runs), p90, p99, min(runs), max(runs), len(runs))


def times(blocks: Blocks) -> Times:
    """Summarize every run of one side."""
    runs = [run for block in blocks for run in block]
    return Times(median(runs), min(runs))


def ratio(ours: Blocks, theirs: Blocks) -> Ratio:
    """Compare block by block.

    Block i of the one side ran right before or after block i of the other: what slows the machine
    down for longer than a block slows both and leaves their ratio as it is.
    """
    ratios = [median(a) / median(b) for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], (ratios[0], ratios[0]))
    lower, middle, upper = quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, (lower, upper))


_SYSTEM = Path("/sys/devices/system/cpu")


def processor_name() -> str:
    """Return the name that the processor gives itself, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in lines)
    names = (value.strip() for key, _, value in pairs if key.strip() == "model name")
    return next(names, platform.machine())


def choose_cpus(count: int) -> list[int]:
    """Choose logical processors to pin to, of different cores as far as there are enough.

    Raises:
        UsageError: this process may not use as many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(allowed):
        raise UsageError(
            f"--threads {count} is not possible: this process may use {len(allowed)} processors"
        )
    return sorted(sorted(allowed, key=place_in_core)[:count])


def place_in_core(cpu: int, system: Path = _SYSTEM) -> int:
    """Return how many processors of the same core come before this one.

    `system` is the folder of the kernel that describes processors.
    """
    try:
        text = (system / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return 0
    siblings: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings += range(int(first), int(last or first) + 1)
    return sorted(siblings).index(cpu)


_BLOCK_RUNS = 10
_LEAST_BLOCKS = 5
PAUSE_S = 0.05

FEW = 0.05  # interruptions for each run, above which a machine is busy


def cut_into_blocks(runs: int) -> list[int]:
    """Cut some runs into blocks that sides take in turns."""
    size = max(1, min(_BLOCK_RUNS, runs // _LEAST_BLOCKS))
    return [size] * (runs // size) + [runs % size] * (runs % size > 0)


@dataclass(frozen=True)
class Turns:
    """What contenders that took turns measured.

    Attributes:
        blocks: milliseconds of every run, or its calls in a profile, by contender and block.
        interruptions: number of times that the system gave their processors to other processes.
        runs: number of runs of all contenders together.
    """

    blocks: dict[str, list[list[Any]]]
    interruptions: int
    runs: int

    @property
    def undisturbed(self) -> bool:
        """Say whether few enough runs were interrupted for their medians not to show it."""
        return self.interruptions <= FEW * self.runs


class Worker:
    """A process that runs one side; see `mbv3c.execution.timing.worker`."""

    def __init__(self, mode: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._mode, self._process, self._errors = mode, process, errors
        self.interruptions = 0

    def measure(self, runs: int) -> list[Any]:
        """Have it run and return what it measured."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, and `answer` says so
            self._process.stdin.write(f"{runs}\n")
            self._process.stdin.flush()
        answer = self.answer()
        self.interruptions += answer["interruptions"]
        return list(answer["measured"])

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["no message"]
            raise ToolError(f"timing {self._mode} failed with status {status}: {lines[-1]}")
        return json.loads(line)


@contextmanager
def worker(
    mode: str,
    bundle: Path,
    cpus: Sequence[int],
    device: str = "cpu",
    *,
    timeout: float | None = None,
    module: str = WORKER,
) -> Iterator[Worker]:
    """Start a worker on some processors, as many threads as there are of them; end it after.

    Args:
        mode: name of a contender, or another mode of a worker.
        bundle: bundle that the worker runs.
        cpus: processors to stay on.
        device: TVM's name of what runs the library's kernels.
        timeout: seconds after which the worker is killed, and what waits for it raises; None for
            never.
        module: module of the worker's program, which knows the modes.
    """
    chosen = ",".join(map(str, cpus))
    command = [sys.executable, "-m", module, mode, str(bundle), chosen, device]
    # TVM would pin its threads by itself, whatever it was given.
    environment = {"TVM_NUM_THREADS": str(len(cpus)), "TVM_BIND_THREADS": "0"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        timer = Timer(timeout or 0.0, process.kill)
        if timeout is not None:
            timer.start()
        try:
            started = Worker(mode, process, errors)
            started.answer()
            yield started
        finally:
            timer.cancel()
            process.kill()


def interleave(
    modes: Sequence[str], bundle: Path, cpus: Sequence[int], runs: int, device: str = "cpu"
) -> Turns:
    """Time `runs` inferences of each contender on a bundle, whose kernels run on a device.

    Raises:
        ToolError: one of them fails.
    """
    return take_turns({mode: (mode, bundle) for mode in modes}, cpus, runs, device)


def take_turns(
    sides: Mapping[str, tuple[str, Path]],
    cpus: Sequence[int],
    runs: int,
    device: str = "cpu",
    *,
    module: str = WORKER,
) -> Turns:
    """Time inferences of several sides.

    Args:
        sides: mode of a worker and bundle of each side, by name.
        cpus: processors to stay on.
        runs: number of inferences of each side.
        device: TVM's name of what runs the libraries' kernels.
        module: module of the workers' program.

    Raises:
        ToolError: one of them fails.
    """
    blocks: dict[str, list[list[Any]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(worker(mode, bundle, cpus, device, module=module))
            for side, (mode, bundle) in sides.items()
        }
        order = list(workers)
        for runs_of_block in cut_into_blocks(runs):
            for side in order:
                time.sleep(PAUSE_S)
                blocks[side].append(workers[side].measure(runs_of_block))
            order.reverse()  # so that neither is always the first
        interruptions = sum(side.interruptions for side in workers.values())
    return Turns(blocks, interruptions, runs * len(sides))
