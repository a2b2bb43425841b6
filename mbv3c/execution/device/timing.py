"""Time models on a device, whole or call by call, over TVM's RPC.

A session first runs a model that is known to be good, the proof. What fails after it was not the
device's fault, unless the device fails just then: whoever asks decides that.
"""

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mbv3c.execution.device.alarms import Result, Steps
from mbv3c.execution.opencl.runtime import PROFILE, KernelTime, by_calls
from mbv3c.execution.timing.stopwatch import INSTRUMENT, Call, by_rounds, read_times
from mbv3c.execution.watching import set_input
from mbv3c.feeds import load_feed, save_array

BIG_CORES = 1  # of TVM's affinity modes
WARM_MS = 200
DRIVER = 5  # times as long as for another step: a GPU's driver compiles


def time_models(
    request: dict[str, Any], remote: Any, folder: Path, steps: Steps
) -> dict[str, Any]:
    """Run the proof, and then time what was asked for, on one thread.

    Args:
        request: folders laid out as bundles, `proof` and `sides`; the library for the device,
            `stopwatch`; and either the number of rounds in which the only side is timed call by
            call, `contest`, or what several sides time in so many `blocks` of so many `runs`,
            `turns`: "calls" or "wholes".
        remote: session with the device.
        folder: folder for outputs.
        steps: what watches the time of each step.

    Returns:
        `rounds`, for every one the names and microseconds of the calls, and `outputs`, files; or
        `blocks`, by side and block the milliseconds of every run, or the calls of every run.
    """
    work = Work(remote, request["seconds"], steps, bool(request["gpu"]))
    try:
        work.prove(Path(request["proof"]))
        sides = {name: Path(side) for name, side in request["sides"].items()}
        if not sides:
            return {}
        stopwatch = Path(request["stopwatch"])
        if "contest" in request:
            (side,) = sides.values()
            return work.contest(side, stopwatch, request["contest"], folder)
        by_call = stopwatch if request["turns"] == "calls" else None
        return {"blocks": work.turns(sides, request["blocks"], request["runs"], by_call)}
    finally:
        work.remove()


class Work:
    """A session's models.

    Attributes:
        names: names of the files on the device.
    """

    def __init__(self, remote: Any, seconds: float, steps: Steps, gpu: bool) -> None:
        self._remote, self._seconds, self._steps, self._gpu = remote, seconds, steps, gpu
        self._device = remote.device("opencl" if gpu else "cpu", 0)
        self.names: list[str] = []
        self._inputs: dict[int, list[Any]] = {}  # of each machine

    def prove(self, side: Path) -> None:
        """Run the model that must work, once."""
        threads = self._remote.get_function("runtime.config_threadpool")
        self.run("taking one thread", lambda: threads(BIG_CORES, 1))
        machine = self.opened(side, "the default kernel")
        self.first(machine, "the default kernel")
        self._steps.proven = True

    def contest(self, side: Path, stopwatch: Path, rounds: int, folder: Path) -> dict[str, Any]:
        """Time every call of a model in each of some rounds, and fetch its outputs."""
        machine = self.opened(side, "the candidates")
        self.first(machine, "the candidates")
        watch = self._loaded(stopwatch, "the stopwatch")
        self.run("warming up", lambda: self.evaluate(machine, 1, WARM_MS))
        outputs = self.run("fetching the outputs", lambda: machine.get_outputs("main"))
        several = [outputs] if not isinstance(outputs, tuple | list) else list(outputs)
        files = [str(folder / f"out{number}.npy") for number in range(len(several))]
        for file, output in zip(files, several, strict=True):
            self.run("fetching the outputs", partial(_fetch, output, file))

        return {"rounds": self._timed(machine, watch, rounds), "outputs": files}

    def first(self, machine: Any, what: str, entry: str = "main") -> None:
        """Run a model for the first time: a GPU's driver compiles its kernels then."""

        def run() -> None:
            machine.invoke_stateful(entry)
            self._device.sync()

        seconds = self._seconds * (DRIVER if self._gpu else 1)
        self._steps.run(f"running {what}", seconds, run)

    def _timed(self, machine: Any, watch: Any, rounds: int) -> list[list[Call]]:
        """Time every call of a model in each of some rounds."""
        clock = self._clock() if self._gpu else None
        if clock is None:
            return self._by_stopwatch(machine, watch, rounds)
        names = [name for name, _ in self._by_stopwatch(machine, watch, 1)[0]]
        return self.run(
            "timing the kernels",
            lambda: [self._by_clock(machine, names, *clock) for _ in range(rounds)],
        )

    def _clock(self) -> tuple[Any, Any] | None:
        """Return what starts and stops the clock of the GPU; None of a server that is not ours."""
        try:
            start, stop = (self._remote.get_function(name) for name in PROFILE)
        except (AttributeError, RuntimeError, ValueError):
            return None
        return start, stop

    def _by_clock(self, machine: Any, names: list[str], start: Any, stop: Any) -> list[Call]:
        """Time every call of a model once, by the GPU's clock."""
        start()
        machine.invoke_stateful("main")
        self._device.sync()
        return by_calls(names, [KernelTime(**row) for row in json.loads(stop())])

    def _by_stopwatch(self, machine: Any, watch: Any, rounds: int) -> list[list[Call]]:
        """Time every call of a model in each of some rounds, by the clock of the device's host."""
        begin, times = watch["begin"], watch["times"]
        self.run("starting the stopwatch", lambda: begin(self._device))
        entry = set_input(machine, "main", self._inputs[id(machine)], INSTRUMENT)
        self.run("timing the kernels", lambda: self.evaluate(machine, rounds, entry=entry))
        calls = read_times(bytes(self.run("fetching the times", times)))
        return by_rounds(calls, rounds + 1)[1:]  # TVM runs once before it counts

    def turns(
        self, sides: dict[str, Path], blocks: int, runs: int, stopwatch: Path | None
    ) -> dict[str, Any]:
        """Time models in turns, as wholes or, with a stopwatch, call by call."""
        machines = {name: self.opened(side, name) for name, side in sides.items()}
        watch = self._loaded(stopwatch, "the stopwatch") if stopwatch is not None else None
        for name, machine in machines.items():
            self.first(machine, name)
            self.run(f"warming up {name}", partial(self.evaluate, machine, 1, WARM_MS))
        measured: dict[str, list[list[Any]]] = {name: [] for name in sides}
        order = list(sides)
        for _ in range(blocks):
            for name in order:
                measured[name].append(
                    self._whole(machines[name], name, runs)
                    if watch is None
                    else self._timed(machines[name], watch, runs)
                )
            order.reverse()  # so that neither is always the first
        return measured

    def _whole(self, machine: Any, name: str, runs: int) -> list[float]:
        """Time some runs of a model, in milliseconds."""
        step = partial(self.evaluate, machine, runs)
        return [1e3 * seconds for seconds in self.run(f"timing {name}", step)]

    def remove(self) -> None:
        """Remove the files: TVM's own servers have one folder for all their clients."""
        failed = self._steps.failed
        for name in self.names:
            with suppress(RuntimeError):  # a device that is gone has nothing left to remove
                self.run("removing its files", partial(self._remote.remove, name))
        self._steps.failed = failed

    def opened(self, side: Path, what: str, entry: str = "main") -> Any:
        """Send a model and its input, and open it for a function that takes the input."""
        from tvm import relax

        from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
        from mbv3c.execution.host import tensors

        library = self._loaded(side / LIBRARY, what)
        machine = self.run(f"opening {what}", lambda: relax.VirtualMachine(library, self._device))
        x = load_feed(side / GOLDEN_INPUT)

        def give() -> None:
            given = self._inputs[id(machine)] = tensors(x, self._device)
            machine.set_input(entry, *given)

        self.run(f"sending the input of {what}", give)
        return machine

    def _loaded(self, file: Path, what: str) -> Any:
        name = f"mbv3c-{uuid.uuid4().hex}.so"
        contents = bytearray(file.read_bytes())
        self.names.append(name)
        self.run(f"uploading {what}", lambda: self._remote.upload(contents, name))
        return self.run(f"loading {what}", lambda: self._remote.load_module(name))

    def evaluate(
        self, machine: Any, runs: int, least_ms: int = 0, *, entry: str = "main"
    ) -> tuple[float, ...]:
        """Return the seconds of some runs, of at least so many milliseconds each."""
        evaluator = machine.module.time_evaluator(
            "invoke_stateful", self._device, number=1, repeat=runs, min_repeat_ms=least_ms
        )
        return tuple(evaluator(entry).results)

    def run(self, name: str, step: Callable[[], Result]) -> Result:
        """Run a step in the time that every step has."""
        return self._steps.run(name, self._seconds, step)


def _fetch(output: Any, file: str) -> None:
    save_array(Path(file), output.numpy())
