"""Talk to a device, in a process that can be ended whenever the device hangs.

    python -m mbv3c.execution.device.client REQUEST.json

TVM's client waits for ever for a device that says nothing, and cannot be interrupted. So every
step sets an alarm whose signal ends this process; the file `step` says which one it was. What the
request asked for goes to `result.json` beside it: the machine, the arrays' files, or an error.

It also times models on the device.

A session first runs a model that is known to be good, the proof. What fails after it was not the
device's fault, unless the device fails just then: whoever asks decides that.
"""

import json
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.execution.device.admission import named
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.stops import STOP, stops_of
from mbv3c.execution.device.tracker import Request, list_devices
from mbv3c.execution.opencl.runtime import PROFILE, KernelTime, by_calls
from mbv3c.execution.timing.stopwatch import INSTRUMENT, Call, by_rounds, read_times
from mbv3c.execution.watching import set_input
from mbv3c.feeds import load_feed, save_array
from mbv3c.process_tree import end_with_parent

_BIG_CORES = 1  # of TVM's affinity modes
_WARM_MS = 200
_LOOK = 10.0  # seconds between two looks at what the tracker says
_DRIVER = 5  # times as long as for another step: a GPU's driver compiles

Result = TypeVar("Result")


class _Steps:
    """Runs steps under an alarm and keeps their names for whoever started this process.

    Attributes:
        failed: name of the last step that raised an exception.
        proven: whether the device ran what it must be able to run; see `time_models`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / STEP
        self.failed = "starting"
        self.proven = False

    def run(self, name: str, seconds: float, step: Callable[[], Result]) -> Result:
        here = {"step": name, "seconds": seconds, "proven": self.proven}
        self._file.write_text(json.dumps(here))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends the process
        try:
            return step()
        except Exception:
            self.failed = name
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def time_models(
    request: dict[str, Any], remote: Any, folder: Path, steps: _Steps
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
    work = _Work(remote, request["seconds"], steps, bool(request["gpu"]))
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


class _Work:
    """A session's models.

    Attributes:
        names: names of the files on the device.
    """

    def __init__(self, remote: Any, seconds: float, steps: _Steps, gpu: bool) -> None:
        self._remote, self._seconds, self._steps, self._gpu = remote, seconds, steps, gpu
        self._device = remote.device("opencl" if gpu else "cpu", 0)
        self.names: list[str] = []
        self._inputs: dict[int, list[Any]] = {}  # of each machine

    def prove(self, side: Path) -> None:
        """Run the model that must work, once."""
        threads = self._remote.get_function("runtime.config_threadpool")
        self._run("taking one thread", lambda: threads(_BIG_CORES, 1))
        machine = self._opened(side, "the default kernel")
        self._first(machine, "the default kernel")
        self._steps.proven = True

    def contest(self, side: Path, stopwatch: Path, rounds: int, folder: Path) -> dict[str, Any]:
        """Time every call of a model in each of some rounds, and fetch its outputs."""
        machine = self._opened(side, "the candidates")
        self._first(machine, "the candidates")
        watch = self._loaded(stopwatch, "the stopwatch")
        self._run("warming up", lambda: self._evaluate(machine, 1, _WARM_MS))
        outputs = self._run("fetching the outputs", lambda: machine.get_outputs("main"))
        several = [outputs] if not isinstance(outputs, tuple | list) else list(outputs)
        files = [str(folder / f"out{number}.npy") for number in range(len(several))]
        for file, output in zip(files, several, strict=True):
            self._run("fetching the outputs", partial(_fetch, output, file))

        return {"rounds": self._timed(machine, watch, rounds), "outputs": files}

    def _first(self, machine: Any, what: str) -> None:
        """Run a model for the first time: a GPU's driver compiles its kernels then."""

        def run() -> None:
            machine.invoke_stateful("main")
            self._device.sync()

        seconds = self._seconds * (_DRIVER if self._gpu else 1)
        self._steps.run(f"running {what}", seconds, run)

    def _timed(self, machine: Any, watch: Any, rounds: int) -> list[list[Call]]:
        """Time every call of a model in each of some rounds."""
        clock = self._clock() if self._gpu else None
        if clock is None:
            return self._by_stopwatch(machine, watch, rounds)
        names = [name for name, _ in self._by_stopwatch(machine, watch, 1)[0]]
        return self._run(
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
        self._run("starting the stopwatch", lambda: begin(self._device))
        entry = set_input(machine, "main", self._inputs[id(machine)], INSTRUMENT)
        self._run("timing the kernels", lambda: self._evaluate(machine, rounds, entry=entry))
        calls = read_times(bytes(self._run("fetching the times", times)))
        return by_rounds(calls, rounds + 1)[1:]  # TVM runs once before it counts

    def turns(
        self, sides: dict[str, Path], blocks: int, runs: int, stopwatch: Path | None
    ) -> dict[str, Any]:
        """Time models in turns, as wholes or, with a stopwatch, call by call."""
        machines = {name: self._opened(side, name) for name, side in sides.items()}
        watch = self._loaded(stopwatch, "the stopwatch") if stopwatch is not None else None
        for name, machine in machines.items():
            self._first(machine, name)
            self._run(f"warming up {name}", partial(self._evaluate, machine, 1, _WARM_MS))
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
        step = partial(self._evaluate, machine, runs)
        return [1e3 * seconds for seconds in self._run(f"timing {name}", step)]

    def remove(self) -> None:
        """Remove the files: TVM's own servers have one folder for all their clients."""
        failed = self._steps.failed
        for name in self.names:
            with suppress(RuntimeError):  # a device that is gone has nothing left to remove
                self._run("removing its files", partial(self._remote.remove, name))
        self._steps.failed = failed

    def _opened(self, side: Path, what: str) -> Any:
        from tvm import relax

        from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
        from mbv3c.execution.host import tensors

        library = self._loaded(side / LIBRARY, what)
        machine = self._run(f"opening {what}", lambda: relax.VirtualMachine(library, self._device))
        x = load_feed(side / GOLDEN_INPUT)

        def give() -> None:
            given = self._inputs[id(machine)] = tensors(x, self._device)
            machine.set_input("main", *given)

        self._run(f"sending the input of {what}", give)
        return machine

    def _loaded(self, file: Path, what: str) -> Any:
        name = f"mbv3c-{uuid.uuid4().hex}.so"
        contents = bytearray(file.read_bytes())
        self.names.append(name)
        self._run(f"uploading {what}", lambda: self._remote.upload(contents, name))
        return self._run(f"loading {what}", lambda: self._remote.load_module(name))

    def _evaluate(
        self, machine: Any, runs: int, least_ms: int = 0, *, entry: str = "main"
    ) -> tuple[float, ...]:
        evaluator = machine.module.time_evaluator(
            "invoke_stateful", self._device, number=1, repeat=runs, min_repeat_ms=least_ms
        )
        return tuple(evaluator(entry).results)

    def _run(self, name: str, step: Callable[[], Result]) -> Result:
        return self._steps.run(name, self._seconds, step)


def _fetch(output: Any, file: str) -> None:
    save_array(Path(file), output.numpy())


STEP, RESULT, MADE = "step", "result.json", "made.npz"


def main(request_file: Path) -> None:
    """Do what a request asks for; every outcome but a killed process leaves a result."""
    if sys.platform == "linux":  # whoever asked may be killed: the device must be free then
        end_with_parent()
    request = json.loads(request_file.read_text())
    steps = _Steps(request_file.parent)
    try:
        result = _answer(request, request_file.parent, steps)
    except (Mbv3cError, RuntimeError, ValueError, TypeError, OSError) as error:
        text = str(error).strip() or repr(error)
        result = {"error": text, "step": steps.failed, "tool": isinstance(error, ToolError)}
    (request_file.parent / RESULT).write_text(json.dumps(result))


def _answer(request: dict[str, Any], folder: Path, steps: _Steps) -> dict[str, Any]:
    limit = request["seconds"]
    secret = Path(request["secret"]) if request["secret"] else None
    address = Address(*request["address"])
    place = Place(address, request["tracked"], request["key"], secret=secret)
    remote = steps.run(
        "waiting for it to be free" if place.tracked else "connecting",
        request["wait_seconds"],
        lambda: _connect(place, request["session_seconds"]),
    )
    machine = steps.run("asking what it is", limit, lambda: _machine(remote))
    if "sides" in request:
        return {"machine": machine, **time_models(request, remote, folder, steps)}
    if request["library"] is None:
        return {"machine": machine, "outputs": []}
    found: dict[str, Any] = {"machine": machine}
    stops = None
    if request.get("stops"):
        stops = steps.run("asking whether it stops", limit, lambda: stops_of(remote))
        if stops is None:
            return {**found, "outputs": [], "stops": False}
    return {**found, "outputs": _run(request, remote, folder, steps, stops)}


def _connect(place: Place, session_seconds: float) -> Any:
    from tvm import rpc

    address = place.address
    if not place.tracked:
        name = named(address, place.key, place.secret)
        return rpc.connect(address.host, address.port, name, session_seconds)
    devices, _ = list_devices(address)
    keys = sorted({device.key for device in devices})
    if place.key not in keys:
        raise ToolError(
            f"the tracker {address} has no device {place.key!r}; it has "
            f"{', '.join(keys) or 'none'}: see `mbv3c device list`"
        )
    if place.secret is not None:
        return _connect(replace(_offered(place), secret=place.secret), session_seconds)
    tracker = rpc.connect_tracker(address.host, address.port)
    return tracker.request(place.key, session_timeout=session_seconds, max_retry=2)


def _offered(place: Place) -> Place:
    """Wait for the tracker to hand out a device; return where that is."""
    with closing(Request(place.address, place.key)) as request:
        while (found := request.poll(_LOOK)) is None:
            pass  # an alarm ends this process, if none comes
    address, match_key = found
    return Place(address, key=match_key)


def _machine(remote: Any) -> dict[str, Any] | None:
    """Ask the device what it is; None of a server that is not ours."""
    from mbv3c.execution.device.session import DESCRIBE

    try:
        function = remote.get_function(DESCRIBE)
    except (AttributeError, RuntimeError, ValueError):
        return None
    return dict(json.loads(function()))


def _run(
    request: dict[str, Any],
    remote: Any,
    folder: Path,
    steps: _Steps,
    stops: tuple[Any, Any] | None = None,
) -> list[list[str]]:
    """Run a library once per input; return the files of each one's outputs.

    With `stops` the kernels get what is in the request's file, and what is wanted of them comes
    back in `MADE`.
    """
    from tvm import relax

    from mbv3c.execution.host import infer_stateful

    limit, first = request["seconds"], request["first_seconds"]
    # TVM's own servers have one folder for all their clients.
    name = f"mbv3c-{uuid.uuid4().hex}.so"
    library = bytearray(Path(request["library"]).read_bytes())
    try:
        steps.run("uploading the library", first, lambda: remote.upload(library, name))
        device = remote.device("opencl" if request["gpu"] else "cpu", 0)
        machine = steps.run(
            "loading the library",
            first,
            lambda: relax.VirtualMachine(remote.load_module(name), device),
        )

        if stops is not None:
            given = bytearray(Path(request["stops"]).read_bytes())
            steps.run("sending the kernels' inputs", first, lambda: stops[0](given))
        written = []
        inputs = zip(request["inputs"], request["entries"], strict=True)
        for index, (source, entry) in enumerate(inputs):
            x = load_feed(Path(source))
            seconds = limit if index else first
            what = f"inference {index + 1} of {len(request['inputs'])}"
            infer = partial(infer_stateful, machine, device, entry, x, stops and STOP)
            outputs = steps.run(what, seconds, infer)
            files = [str(folder / f"out{index}.{i}.npy") for i in range(len(outputs))]
            for file, output in zip(files, outputs, strict=True):
                save_array(Path(file), output)
            written.append(files)
        if stops is not None:
            made = steps.run("fetching what kernels made", first, stops[1])
            (folder / MADE).write_bytes(bytes(made))
        return written
    finally:
        failed = steps.failed
        with suppress(RuntimeError):  # a device that is gone has nothing left to remove
            steps.run("removing the library", limit, lambda: remote.remove(name))
        steps.failed = failed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
