"""Measure a library on a device for `mbv3c bench`; `bench_session` is the device's part.

    for every configuration    library and onnxruntime in turns, in blocks with a pause between
                               then each for some seconds, if the board counts energy
    the quickest of them       the library alone for some minutes, if that was asked for

TVM's own servers have no Python: there the library is timed by TVM's evaluator on the cores that
TVM takes for the large or the little ones, and nothing else is known.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.execution.device.alarms import Result, Steps
from mbv3c.execution.device.bench_session import CLOSE, LIBRARY, LOOK, MEASURE, OPEN
from mbv3c.execution.device.clusters import BIG, LITTLE, Cluster, Configuration, configurations
from mbv3c.execution.device.timing import DRIVER, WARM_MS, Work
from mbv3c.execution.timing.beside import ONNXRUNTIME
from mbv3c.execution.timing.latency import PAUSE_S, cut_into_blocks, distribution
from mbv3c.feeds import numbered_files

TVMS = "tvm"  # whose own server it is, if not ours

_BLOCK_WARM_RUNS = 2  # after a pause caches and clocks are cold
_ENERGY_SECONDS = 5.0
_WINDOWS = 30  # of a long run
_FILES = {LIBRARY: "model.so", ONNXRUNTIME: "model.onnx"}
_INPUT = "input.npy"
_MODES = {None: 1, BIG: 1, LITTLE: -1}  # TVM's affinity modes


@dataclass(frozen=True)
class BenchAsked:
    """What is to be measured.

    Attributes:
        bundle: folder with the library and its first input, laid out as a bundle.
        library, model: file of the library; of the model for onnxruntime, None without it.
        input: file of the first array of the input.
        entry: function of the library that takes the input.
        cores: number of threads that the library was compiled for.
        pin: processors to stay on, as the user wrote them; None for every cluster in turn.
        threads: number of threads; None for 1, 2, 4 and so on.
        runs: timed inferences of each side in each configuration.
        minutes: how long the quickest configuration then runs; 0 for not at all.
    """

    bundle: str
    library: str
    model: str | None
    input: str
    entry: str
    cores: int
    pin: str | None
    threads: int | None
    runs: int
    minutes: float


def bench_on(request: dict[str, Any], remote: Any, steps: Steps) -> dict[str, Any]:
    """Measure what a request asks for.

    Returns:
        `server`, "mbv3c" or "tvm"; `look`, what the device has; `rows`, of every configuration
        what was measured; `sustained`, the windows of the long run or None; or `refused`, why the
        request makes no sense on this device.
    """
    asked = BenchAsked(**request["bench"])
    session = _Session(remote, request["seconds"], steps, gpu=request["gpu"])
    try:
        if session.functions is None:
            return session.by_tvm(asked)
        return session.measured(asked)
    except UsageError as error:
        return {"refused": str(error)}
    finally:
        session.remove()


class _Session:
    """A session with a device.

    Attributes:
        functions: what our server does for a benchmark, by name; None of TVM's own.
    """

    def __init__(self, remote: Any, seconds: float, steps: Steps, *, gpu: bool) -> None:
        self._remote, self._seconds, self._steps, self._gpu = remote, seconds, steps, gpu
        self.functions = self._run("asking what it can measure", self._found)
        self._uploaded: list[str] = []
        self._energy = False

    def _found(self) -> dict[str, Any] | None:
        try:
            return {name: self._remote.get_function(name) for name in (LOOK, OPEN, MEASURE, CLOSE)}
        except (AttributeError, RuntimeError, ValueError):
            return None

    def measured(self, asked: BenchAsked) -> dict[str, Any]:
        """Measure on a server of ours."""
        look = self._call(LOOK, "asking for its processors")
        clusters = [Cluster(**one | {"cpus": tuple(one["cpus"])}) for one in look["clusters"]]
        plan = configurations(clusters, asked.cores, asked.pin, asked.threads)
        sides = [LIBRARY]
        if asked.model is not None and ONNXRUNTIME in look["runtimes"]:
            sides.append(ONNXRUNTIME)
        self._energy = bool(look["counters"] or look["sensors"]["watts"])
        self._upload(asked, sides)
        rows = [self._row(asked, one, sides) for one in plan]
        sustained = None
        if asked.minutes:
            best = min(range(len(plan)), key=lambda at: _median(rows[at]))
            sustained = {"row": best, "windows": self._sustained(asked, plan[best])}
        return {"server": "mbv3c", "look": look, "rows": rows, "sustained": sustained}

    def _upload(self, asked: BenchAsked, sides: Sequence[str]) -> None:
        files = {_FILES[LIBRARY]: Path(asked.library)}
        if ONNXRUNTIME in sides:
            files[_FILES[ONNXRUNTIME]] = Path(str(asked.model))
        sources = takewhile(Path.is_file, numbered_files(Path(asked.input)))
        names = map(str, numbered_files(Path(_INPUT)))
        files |= dict(zip(names, sources, strict=False))
        for name, file in files.items():
            contents = bytearray(file.read_bytes())
            self._uploaded.append(name)
            self._run(f"uploading {name}", partial(self._remote.upload, contents, name))

    def _row(self, asked: BenchAsked, one: Configuration, sides: Sequence[str]) -> dict[str, Any]:
        """Measure one configuration: every side's memory and times, and what sensors told."""
        row: dict[str, Any] = {**asdict(one), "sides": {}}
        try:
            for side in sides:
                memory = self._open(asked, one, side)
                row["sides"][side] = {"memory": memory, "blocks": [], "energy": []}
            for runs in cut_into_blocks(asked.runs):
                for side in sides:
                    time.sleep(PAUSE_S)
                    block = self._measure(side, runs=runs, warm=_BLOCK_WARM_RUNS)
                    row["sides"][side]["blocks"].append(block)
                sides = [*reversed(sides)]  # so that neither is always the first
            if self._energy:
                for side in sides:
                    window = self._measure(side, seconds=_ENERGY_SECONDS)
                    row["sides"][side]["energy"].append(window)
        finally:
            self._close(row["sides"])
        return row

    def _sustained(self, asked: BenchAsked, one: Configuration) -> list[dict[str, Any]]:
        """Run the library for some minutes; return what each of some windows has."""
        whole = 60 * asked.minutes
        window = max(1.0, whole / _WINDOWS)
        windows: list[dict[str, Any]] = []
        try:
            self._open(asked, one, LIBRARY)
            begun = time.monotonic()
            left = whole
            while left > 0:
                found = self._measure(LIBRARY, seconds=min(window, left))
                spread = asdict(distribution(found.pop("ms")))
                windows.append({**found, "at": time.monotonic() - begun, "spread": spread})
                left = whole - (time.monotonic() - begun)
        finally:
            self._close([LIBRARY])
        return windows

    def _open(self, asked: BenchAsked, one: Configuration, side: str) -> dict[str, Any]:
        given = {
            "side": side,
            "file": _FILES[side],
            "fed": _INPUT,
            "entry": asked.entry,
            "device": "opencl" if self._gpu and side == LIBRARY else "cpu",
            "cpus": list(one.cpus),
        }
        what = f"opening the {side}" if side == LIBRARY else f"opening the model in {side}"
        return self._call(OPEN, what, given, self._seconds * DRIVER)

    def _measure(
        self, side: str, runs: int | None = None, seconds: float | None = None, warm: int = 0
    ) -> dict[str, Any]:
        given = {"side": side, "runs": runs, "seconds": seconds, "warm": warm}
        limit = self._seconds * (1 + (runs or 0) // 2) + (seconds or 0)
        return self._call(MEASURE, f"timing the {side}", given, limit)

    def _close(self, sides: Any) -> None:
        failed = self._steps.failed
        for side in sides:
            with suppress(RuntimeError):  # it may have ended by itself
                self._run(f"closing the {side}", partial((self.functions or {})[CLOSE], side))
        self._steps.failed = failed

    def _call(
        self,
        name: str,
        what: str,
        given: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        function = (self.functions or {})[name]
        arguments = () if given is None else (json.dumps(given),)
        step = partial(function, *arguments)
        answer: dict[str, Any] = json.loads(str(self._run(what, step, seconds)))
        return answer

    def _run(self, what: str, step: Callable[[], Result], seconds: float | None = None) -> Result:
        return self._steps.run(what, seconds or self._seconds, step)

    def remove(self) -> None:
        """Remove the files of the session."""
        failed = self._steps.failed
        for name in self._uploaded:
            with suppress(RuntimeError):  # a device that is gone has nothing left to remove
                self._run("removing its files", partial(self._remote.remove, name))
        self._steps.failed = failed

    def by_tvm(self, asked: BenchAsked) -> dict[str, Any]:
        """Time the library on a server of TVM's own."""
        if asked.pin not in _MODES:
            raise UsageError(
                f"--pin {asked.pin}: its server is TVM's own, which only knows {BIG} and {LITTLE}"
            )
        if asked.minutes:
            raise UsageError(
                "--minutes needs `mbv3c device serve` on the device; TVM's own server does not "
                "tell how warm it becomes"
            )
        every = Cluster(asked.pin or BIG, tuple(range(asked.cores)))
        plan = configurations([every], asked.cores, asked.pin or BIG, asked.threads)
        work = Work(self._remote, self._seconds, self._steps, self._gpu)
        rows = []
        try:
            machine = work.opened(Path(asked.bundle), "the library", asked.entry)
            threads = self._remote.get_function("runtime.config_threadpool")
            for one in plan:
                take = partial(threads, _MODES[asked.pin], one.threads)
                work.run(f"taking {one.threads} threads", take)
                work.first(machine, "the library", asked.entry)
                timed = partial(work.evaluate, machine, entry=asked.entry)
                work.run("warming up", partial(timed, 1, WARM_MS))
                blocks = []
                for runs in cut_into_blocks(asked.runs):
                    took = work.run("timing the library", partial(timed, runs))
                    blocks.append({"ms": [1e3 * each for each in took]})
                side = {"memory": None, "blocks": blocks, "energy": []}
                rows.append(
                    {"cluster": one.cluster, "cpus": [], "threads": one.threads}
                    | {"sides": {LIBRARY: side}}
                )
        finally:
            work.remove()
        return {"server": TVMS, "look": None, "rows": rows, "sustained": None}


def _median(row: dict[str, Any]) -> float:
    blocks = row["sides"][LIBRARY]["blocks"]
    return distribution([each for block in blocks for each in block["ms"]]).median_ms
