"""What a session on a device does for `mbv3c bench`: sides, each in a process of its own.

A side is the library, or onnxruntime on its model. Its process is forked from the session's, in
which nothing of TVM has run yet, stays on the processors that it is given, and has as many
threads. While it runs, the session's process reads the board's sensors.

    look     → what the device has: clusters, counters of energy, runtimes
    open     → a side is warm; what memory it took
    measure  → the milliseconds of each of some inferences, and what sensors told meanwhile
    close    → its process is gone
"""

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from mbv3c.errors import ToolError
from mbv3c.execution.device.clusters import find_clusters
from mbv3c.execution.device.sensors import counters, read_sensors
from mbv3c.execution.timing.beside import ONNXRUNTIME, open_onnxruntime
from mbv3c.feeds import arrays_of, load_feed
from mbv3c.process_tree import end_with_parent

LOOK, OPEN, MEASURE, CLOSE = (
    f"mbv3c.device.bench.{word}" for word in ("look", "open", "measure", "close")
)
LIBRARY = "library"  # the other side is onnxruntime

_SAMPLE = 0.25  # seconds between two looks at the sensors
_WARM_RUNS = 3
_WARM_NS = 200_000_000
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # written to clear_refs: proc(5)


@dataclass
class _Side:
    """A running side.

    Attributes:
        pid: its process.
        connection, stream: where it is asked, and answers, a line of JSON each.
        cpus: processors that it stays on.
    """

    pid: int
    connection: socket.socket
    stream: Any
    cpus: list[int]

    def end(self) -> None:
        """Close the connection of a process that is gone."""
        with suppress(OSError):
            self.stream.close()
        self.connection.close()


class Bench:
    """The sides of a session."""

    def __init__(self, within: Callable[[str], str], root: Path = Path("/")) -> None:
        """Take where the session's files are, and the folder that has proc and sys."""
        self._within, self._root = within, root
        self._sides: dict[str, _Side] = {}

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return the functions that a session registers, by name; they take and give JSON."""
        return {
            LOOK: lambda: json.dumps(self.look()),
            OPEN: lambda text: json.dumps(self.open(**json.loads(text))),
            MEASURE: lambda text: json.dumps(self.measure(**json.loads(text))),
            CLOSE: self.close,
        }

    def look(self) -> dict[str, Any]:
        """Say what is there to measure on, and with."""
        allowed = sorted(os.sched_getaffinity(0))
        return {
            "clusters": [asdict(one) for one in find_clusters(allowed, self._root)],
            "counters": list(counters(self._root)),
            "sensors": read_sensors(allowed, self._root).to_json(),
            "runtimes": _runtimes(),
        }

    def open(
        self, side: str, file: str, fed: str, entry: str, device: str, cpus: list[int]
    ) -> dict[str, Any]:
        """Start a side and have it warm up; return its bytes before it opened, and at most.

        Args:
            side: `LIBRARY` or `ONNXRUNTIME`.
            file: the library, or the model.
            fed: file of the first array of the input.
            entry: function of the library that takes the input.
            device: TVM's name of what runs the library's kernels.
            cpus: processors to stay on, as many as there are threads.

        Raises:
            ToolError: it cannot be opened, or fails.
        """
        ours, theirs = socket.socketpair()
        path, x = Path(self._within(file)), Path(self._within(fed))
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _be(theirs, cpus, lambda: _opened(side, path, x, entry, device, len(cpus)))
        theirs.close()
        self._sides[side] = _Side(pid, ours, ours.makefile("rw"), cpus)
        return self._answer(side)

    def measure(
        self, side: str, runs: int | None, seconds: float | None, warm: int
    ) -> dict[str, Any]:
        """Have a side run, for so many runs or seconds after some that do not count.

        Raises:
            ToolError: it fails.
        """
        opened = self._sides[side]
        begun, before = time.monotonic(), counters(self._root)
        opened.stream.write(json.dumps([runs, seconds, warm]) + "\n")
        opened.stream.flush()
        readings = []
        while not select.select([opened.connection], [], [], _SAMPLE)[0]:
            readings.append(read_sensors(opened.cpus, self._root).to_json())
        after, took = counters(self._root), time.monotonic() - begun
        if not readings:  # its clock is still that of the runs
            readings.append(read_sensors(opened.cpus, self._root).to_json())
        joules = {name: after[name].since(one) for name, one in before.items() if name in after}
        return {
            **self._answer(side),
            "seconds": took,
            "readings": readings,
            "joules": {name: spent for name, spent in joules.items() if spent is not None},
        }

    def close(self, side: str) -> None:
        """End a side's process."""
        opened = self._sides.pop(side)
        with suppress(ProcessLookupError):
            os.kill(opened.pid, signal.SIGKILL)
        os.waitpid(opened.pid, 0)
        opened.end()

    def _answer(self, side: str) -> dict[str, Any]:
        opened = self._sides[side]
        line = opened.stream.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "error" not in answer:
                return answer
            self.close(side)
            raise ToolError(f"{side} failed on the device: {answer['error']}")
        _, status = os.waitpid(opened.pid, 0)
        self._sides.pop(side).end()
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        raise ToolError(f"the process of {side} ended with {how} on the device")


def _runtimes() -> dict[str, str]:
    """Return the versions of other runtimes here, by the names of their modules.

    Boards have onnxruntime from packages of other names, too, such as onnxruntime-gpu.
    """
    if find_spec(ONNXRUNTIME) is None:
        return {}
    packages = metadata.packages_distributions().get(ONNXRUNTIME)
    return {ONNXRUNTIME: metadata.version(packages[0])} if packages else {}


def _opened(
    side: str, file: Path, fed: Path, entry: str, device: str, threads: int
) -> Callable[[], Callable[[], object]]:
    """Import a runtime, and return what then opens a file: what runs one inference."""
    x = arrays_of(load_feed(fed))
    if side == ONNXRUNTIME:
        import onnxruntime  # noqa: F401 - its own memory is not the model's

        return lambda: open_onnxruntime(file, x, threads)
    import tvm
    from tvm.runtime.vm import VirtualMachine

    if device != "cpu":
        from mbv3c.execution.opencl.runtime import device_info, load_runtime

        load_runtime()
        device_info()
    where = tvm.runtime.device(device, 0)
    given = [tvm.runtime.tensor(array, where) for array in x]

    def opening() -> Callable[[], object]:
        main = VirtualMachine(tvm.runtime.load_module(str(file)), where)[entry]

        def run() -> None:
            main(*given)
            where.sync()  # launches on a GPU return at once

        return run

    return opening


def _be(
    stream: socket.socket,
    cpus: list[int],
    importing: Callable[[], Callable[[], Callable[[], object]]],
) -> NoReturn:
    """Be the process of a side, until the session closes it."""
    answers = stream.makefile("rw")

    def tell(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        end_with_parent()
        os.dup2(2, 1)  # libraries may print
        os.sched_setaffinity(0, cpus)
        # TVM would pin its threads by itself, whatever it was given.
        os.environ |= {"TVM_NUM_THREADS": str(len(cpus)), "TVM_BIND_THREADS": "0"}
        opening = importing()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        before = _status_bytes("VmRSS")
        run = opening()
        begin, runs = time.perf_counter_ns(), 0
        while runs < _WARM_RUNS or time.perf_counter_ns() - begin < _WARM_NS:
            run()
            runs += 1
        tell({"before_bytes": before, "peak_bytes": _status_bytes("VmHWM")})
        for line in answers:
            tell(_measured(run, *json.loads(line)))
    except BaseException as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        with suppress(OSError):
            tell({"error": lines[-1]})
    finally:
        os._exit(0)


def _measured(
    run: Callable[[], object], runs: int | None, seconds: float | None, warm: int
) -> dict[str, Any]:
    """Run for so many runs or seconds; both are limits where both are given."""
    for _ in range(warm):
        run()
    before = _interruptions()
    took: list[float] = []
    begin = last = time.perf_counter_ns()
    while (runs is None or len(took) < runs) and (seconds is None or last - begin < seconds * 1e9):
        started = time.perf_counter_ns()
        run()
        last = time.perf_counter_ns()
        took.append((last - started) / 1e6)
    return {"ms": took, "interruptions": _interruptions() - before}


def _interruptions() -> int:
    """Return how often the system gave this process's processors to others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _status_bytes(key: str) -> int | None:
    """Return what the kernel says of this process's memory; None where it says nothing."""
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) << 10
    return None
