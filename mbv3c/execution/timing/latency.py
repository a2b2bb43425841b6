"""Time runtimes beside each other.

Each runs in a process of its own, all of them pinned to the same processors, and they take turns
in blocks with a pause between: thread pools go on spinning for a while after a call, and would
take the processors from whoever comes next.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO, Any

from mbv3c.errors import ToolError

_BLOCK_RUNS = 10
_LEAST_BLOCKS = 5
_PAUSE_S = 0.05

_FEW = 0.05


@dataclass(frozen=True)
class Turns:
    """What contenders that took turns measured.

    Attributes:
        blocks: milliseconds of every run by contender and block; of a profile, the calls of every
            run.
        interruptions: how often the system gave their processors to other processes.
        runs: all of them together.
    """

    blocks: dict[str, list[list[Any]]]
    interruptions: int
    runs: int

    @property
    def undisturbed(self) -> bool:
        """Say whether few enough runs were interrupted for their medians not to show it."""
        return self.interruptions <= _FEW * self.runs


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
        measured: list[Any] = answer["measured"]
        return measured

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
) -> Iterator[Worker]:
    """Start a worker on some processors, as many threads as there are of them; end it after.

    Args:
        mode: a contender's name, or one of the worker's own modes.
        bundle: the bundle that it runs.
        cpus: the processors.
        device: TVM's name of what runs the library's kernels.
        timeout: seconds after which it is killed, and what waits for it raises; None: never.
    """
    chosen = ",".join(map(str, cpus))
    module = "mbv3c.execution.timing.worker"
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
    sides: Mapping[str, tuple[str, Path]], cpus: Sequence[int], runs: int, device: str = "cpu"
) -> Turns:
    """Time inferences of several sides.

    Args:
        sides: each side's mode of a worker and bundle, by name.
        cpus: the processors to stay on.
        runs: inferences of each side.
        device: TVM's name of what runs the libraries' kernels.

    Raises:
        ToolError: one of them fails.
    """
    size = max(1, min(_BLOCK_RUNS, runs // _LEAST_BLOCKS))
    sizes = [size] * (runs // size) + [runs % size] * (runs % size > 0)
    blocks: dict[str, list[list[Any]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(worker(mode, bundle, cpus, device))
            for side, (mode, bundle) in sides.items()
        }
        order = list(workers)
        for runs_of_block in sizes:
            for side in order:
                time.sleep(_PAUSE_S)
                blocks[side].append(workers[side].measure(runs_of_block))
            order.reverse()  # so that neither is always the first
        interruptions = sum(side.interruptions for side in workers.values())
    return Turns(blocks, interruptions, runs * len(sides))
