"""A scheduler and workers on loopback, as commands in process groups of their own."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.command_line import command_line

ROOT = Path(__file__).parents[3]


@dataclass
class Cluster:
    """What runs, by name: `scheduler`, and the names of the workers' stores."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    address: str = ""

    def start(self, name: str, *arguments: object) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command_line("cluster", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,
            )

    def start_scheduler(self, port: int = 0) -> None:
        self.start("scheduler", "scheduler", "--port", port)
        self.address = self.line("scheduler", "scheduler at ")

    def start_worker(self, name: str, *more: object) -> None:
        self.start(name, "worker", self.address, "--jobs", 1, "--store", self.folder / name, *more)

    def line(self, name: str, start: str) -> str:
        """Wait until a process says something, and return the word that follows."""
        log, end = self.folder / f"{name}.log", time.monotonic() + 120
        while start not in (text := log.read_text()):
            assert self.processes[name].poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.05)
        return text.partition(start)[2].split()[0].rstrip(",")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait()


@contextmanager
def cluster(folder: Path, workers: int, **environment: str) -> Iterator[Cluster]:
    """Yield a cluster whose workers are called w0, w1 and so on; end it afterwards."""
    folder.mkdir()
    made = Cluster(folder, environment)
    try:
        made.start_scheduler()
        for number in range(workers):
            made.start_worker(f"w{number}")
        for number in range(workers):
            made.line(f"w{number}", "worker at ")
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)
