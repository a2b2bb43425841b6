"""Memory and open files of one process over many inferences, reopened bundles and verdicts.

`python -m benchmarks.long_runs BUNDLE` does it for a bundle of this machine, by default of
Small 0.35 at 96 pixels, which it compiles first.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

import mbv3c
from mbv3c.bundle import Bundle
from mbv3c.execution.host import HostRunner
from mbv3c.process_tree import memory_of
from mbv3c.scratch import scratch_folder

THREADS = 8
_MARKS = 4  # how often in a run it is looked


@dataclass(frozen=True)
class Mark:
    """What the process has after some repetitions.

    Attributes:
        done: number of repetitions.
        memory: bytes that are its own.
        files: number of open file descriptors.
    """

    done: int
    memory: int
    files: int


@dataclass(frozen=True)
class Part:
    """Something that was repeated.

    Attributes:
        name: what it was.
        marks: what the process had, after the first tenth and at regular steps up to the end.
    """

    name: str
    marks: tuple[Mark, ...]

    @property
    def growth(self) -> int:
        """Bytes that the process has more in the end than after the first tenth."""
        return self.marks[-1].memory - self.marks[0].memory

    @property
    def least_growth(self) -> int:
        """Bytes that it grew by between the two marks between which it grew least.

        What leaks grows between all of them. An allocator's stock grows by a step now and then,
        with threads as late as after a thousand inferences.
        """
        memory = [mark.memory for mark in self.marks]
        return min(after - before for before, after in pairwise(memory))

    def row(self) -> str:
        first, last = self.marks[0], self.marks[-1]
        return (
            f"| {self.name} | {last.done:,} | {first.memory / 2**20:.1f} | "
            f"{last.memory / 2**20:.1f} | {self.growth / last.done:+.0f} | "
            f"{first.files} | {last.files} |"
        )


HEADING = (
    "| in one process | times | MiB after a tenth | in the end | bytes each | files | at last |\n"
    "|---|---|---|---|---|---|---|"
)


def watched(name: str, times: int, once: Callable[[], None], each: int = 1) -> Part:
    """Do something so many times, `each` of them at once, and look at this process meanwhile."""
    rounds = max(1, times // each)
    points = {max(1, rounds // 10), *(rounds * i // _MARKS for i in range(1, _MARKS + 1))}
    marks, done = list[Mark](), 0
    for point in sorted(points - {0}):
        for _ in range(done, point):
            once()
        done = point
        files = len(list(Path("/proc/self/fd").iterdir()))
        marks.append(Mark(done * each, memory_of(os.getpid()), files))
    return Part(name, tuple(marks))


def long_runs(bundle: Bundle, inferences: int, reopened: int, verdicts: int) -> Iterator[Part]:
    """Repeat inferences in one thread and in eight, opening a bundle, and verifying it.

    Raises:
        AssertionError: an inference gives something else than the first, or a verdict is bad.
    """
    x = np.random.default_rng(0).normal(size=bundle.input_shape).astype(np.float32)
    infer = HostRunner().opened(bundle.path)
    wanted = infer(x)[0]

    def once(_: object = None) -> None:
        assert np.array_equal(infer(x)[0], wanted)

    def run(_: object = None) -> None:
        ran = mbv3c.run(bundle.path, x)
        assert np.array_equal(ran.arrays[bundle.output_names[0]], wanted)

    def verify() -> None:
        assert mbv3c.verify(bundle.path).exit_code == 0

    yield watched("inferences", inferences, once)
    with ThreadPoolExecutor(THREADS) as pool:

        def at_once(call: Callable[[object], None]) -> None:
            list(pool.map(call, range(THREADS)))

        text = f"{THREADS} threads at once"
        yield watched(f"inferences, {text}", inferences, lambda: at_once(once), THREADS)
        yield watched(f"`mbv3c.run`, {text}", reopened, lambda: at_once(run), THREADS)
    yield watched("`mbv3c.run`, one after another", reopened, run)
    yield watched("`mbv3c.verify`", verdicts, verify)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--inferences", type=int, default=100_000)
    parser.add_argument("--reopened", type=int, default=1_000)
    parser.add_argument("--verdicts", type=int, default=50)
    given = parser.parse_args()
    with scratch_folder("long") as folder:
        path = given.bundle or folder / "bundle"
        if given.bundle is None:
            model = mbv3c.build(variant="small", width=0.35, resolution=96, classes=10)
            mbv3c.compile(model, "host_cpu", path)
        print(HEADING, flush=True)
        bundle = mbv3c.open_bundle(path)
        for part in long_runs(bundle, given.inferences, given.reopened, given.verdicts):
            print(part.row(), flush=True)


if __name__ == "__main__":
    main()
