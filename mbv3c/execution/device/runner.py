"""Run a bundle on a device behind TVM's RPC: a board, a phone, another machine."""

import json
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import LIBRARY, entry_for
from mbv3c.errors import ToolError
from mbv3c.execution.device import client
from mbv3c.execution.device.machine import Machine, machine_from_json
from mbv3c.execution.device.place import DEFAULT_SECONDS, Place
from mbv3c.execution.device.stops import answer_of, request_for
from mbv3c.execution.processes import Finished, finish
from mbv3c.execution.runners import KernelCall, NoStopsError, check_names
from mbv3c.feeds import Array, Feed, save_feed
from mbv3c.scratch import scratch_folder

_WAIT = 5  # how many times as long to wait for a device that others use
_FIRST = 5  # and for the first inference: a GPU's driver compiles its kernels then
START_SECONDS = 120.0  # for a process of Python and TVM to start, on a busy machine
CONNECT_SECONDS = 10.0
_BENCH = 3600.0  # seconds for all configurations; each step has an alarm of its own
_EXACT = "(the library itself)"


class SessionError(ToolError):
    """A session with a device failed.

    Attributes:
        proven: whether the device had run what it must be able to run.
        late: whether a step took too long.
    """

    def __init__(self, text: str, *, proven: bool = False, late: bool = False) -> None:
        super().__init__(text)
        self.proven, self.late = proven, late


@dataclass
class RpcRunner:
    """Runs on a device behind an RPC server.

    Attributes:
        place: address of the device, or the tracker's and the key.
        gpu: whether the device's GPU computes, through OpenCL.
        machine: description of the device that ran last; None where its server gives none.
        seconds: time that a step, such as an inference, may take; five times as long for what is
            done once.
    """

    place: Place
    gpu: bool = False
    machine: Machine | None = None
    seconds: float = DEFAULT_SECONDS

    @property
    def description(self) -> str:
        machine = self.machine
        if machine is None:
            return f"{self.place}, whose server does not say what it is {_EXACT}"
        what = machine.processor
        if self.gpu and machine.opencl is not None:
            what = machine.opencl.sentence
        return f"{what} of {machine.name}, {self.place} {_EXACT}"

    def run(self, bundle: Path, inputs: Sequence[Feed]) -> list[list[Array]]:
        """Run `model.so` of a bundle once per input and return the outputs of each.

        Raises:
            ToolError: the device cannot be reached, refuses, hangs or dies.
        """
        with scratch_folder("device") as folder:
            files = [folder / f"in{index}.npy" for index in range(len(inputs))]
            for file, x in zip(files, inputs, strict=True):
                save_feed(file, x)
            entries = [entry_for(bundle, x) for x in inputs]
            result = self._ask(folder, bundle / LIBRARY, files, entries)
            self._note(result)
            return [[np.load(file) for file in outputs] for outputs in result["outputs"]]

    def run_kernels(
        self, bundle: Path, x: Feed, calls: Sequence[KernelCall]
    ) -> list[dict[int, NDArray[Any]]]:
        """Run `model.so` once with other inputs for its kernels; return what was wanted of each.

        Raises:
            NoStopsError: its server is not ours, and does not stop between kernels.
            ToolError: the device cannot be reached, refuses, hangs or dies.
            Mbv3cError: the library calls other kernels than `calls`.
        """
        given = {
            (at, place): array
            for at, call in enumerate(calls)
            for place, array in call.given.items()
        }
        wanted = [(at, place) for at, call in enumerate(calls) for place in call.wanted]
        with scratch_folder("device") as folder:
            file, stops = folder / "in.npy", folder / "stops.npz"
            save_feed(file, x)
            stops.write_bytes(request_for(given, wanted))
            result = self._ask(folder, bundle / LIBRARY, [file], [entry_for(bundle, x)], stops)
            if result.get("stops") is False:
                raise NoStopsError(
                    f"the server of the {self.place} does not stop between kernels; start `mbv3c "
                    "device serve` of this version there"
                )
            made, names = answer_of((folder / client.MADE).read_bytes())
        check_names(bundle, names, calls)
        found: list[dict[int, NDArray[Any]]] = [{} for _ in calls]
        for (at, place), array in made.items():
            found[at][place] = array
        return found

    def look(self) -> None:
        """Reach the device and learn what it is.

        Raises:
            ToolError: it cannot be reached, or hangs.
        """
        with scratch_folder("device") as folder:
            self._note(self._ask(folder, None, []))

    def bench(self, asked: dict[str, Any], long: float) -> dict[str, Any]:
        """Have the device measured; `bench_client` says what is asked, and what comes back.

        `long` is how many seconds a long run takes.

        Raises:
            ToolError: the device cannot be reached, refuses, hangs or dies.
        """
        with scratch_folder("device") as folder:
            return self._ask(folder, None, [], also={"bench": asked}, more_seconds=_BENCH + long)

    def _note(self, result: dict[str, Any]) -> None:
        document = result["machine"]
        self.machine = machine_from_json(document) if document else None

    def _ask(
        self,
        folder: Path,
        library: Path | None,
        inputs: Sequence[Path],
        entries: Sequence[str] = (),
        stops: Path | None = None,
        *,
        also: dict[str, Any] | None = None,
        more_seconds: float = 0.0,
    ) -> dict[str, Any]:
        """Start a client for one session and return its result.

        `entries` are the functions of the library that take the inputs; `stops` is a file of what
        kernels get. `also` goes into the request, for which the session has `more_seconds`.
        """
        wait = self.seconds * _WAIT
        if not self.place.tracked:
            wait = min(wait, CONNECT_SECONDS)
        first = self.seconds * _FIRST
        session = wait + 4 * first + self.seconds * (len(inputs) + 2) + more_seconds
        request = {
            "address": [self.place.address.host, self.place.address.port],
            "tracked": self.place.tracked,
            "key": self.place.key,
            "secret": str(self.place.secret.absolute()) if self.place.secret else None,
            "library": str(library.absolute()) if library else None,
            "gpu": self.gpu,
            "inputs": [str(path) for path in inputs],
            "entries": list(entries),
            "stops": str(stops) if stops else None,
            "seconds": self.seconds,
            "first_seconds": first,
            "wait_seconds": wait,
            "session_seconds": session,
            **(also or {}),
        }
        return session_result(self.place, folder, run_client(folder, request))


def run_client(
    folder: Path, request: dict[str, Any], stop: threading.Event | None = None
) -> Finished:
    """Run a client of a device for one session; `stop` lets another thread end it.

    Raises:
        ToolError: it ran longer than its session may last, or was stopped.
    """
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    command = [sys.executable, "-m", client.__name__, str(file)]
    return finish(command, timeout=request["session_seconds"] + START_SECONDS, stop=stop)


def session_result(place: object, folder: Path, finished: Finished) -> dict[str, Any]:
    """Read what a client of a device left behind.

    Raises:
        SessionError: the device failed, with the step in which it did.
    """
    step_file, result_file = folder / client.STEP, folder / client.RESULT
    step = {"step": "starting", "proven": False}
    if step_file.is_file():
        step = json.loads(step_file.read_text())
    proven = bool(step["proven"])
    if finished.returncode == -signal.SIGALRM:
        raise SessionError(
            f"the {place} did not answer within {step['seconds']:g} s ({step['step']}); "
            "it hangs, is busy, or is slow: see `mbv3c device list`, start its server again, "
            "or give it longer with --timeout SECONDS",
            proven=proven,
            late=True,
        )
    if not result_file.is_file():
        raise SessionError(
            f"the client of the {place} ended with status {finished.returncode} "
            f"({step['step']}):\n{finished.last_lines()}",
            proven=proven,
        )
    result: dict[str, Any] = json.loads(result_file.read_text())
    if "error" not in result:
        return result
    text = result["error"]
    if not result["tool"]:
        text = f"the {place} failed ({result['step']}): {_meaning(text)}"
    raise SessionError(text, proven=proven)


# What TVM says, and what it means.
_MEANINGS = (
    (
        "Check failed: (sock.Connect(addr))",
        "nothing listens there; start `mbv3c device serve` on it, with --host if it is not this "
        "machine",
    ),
    (
        "Connection refused",
        "nothing listens there; start `mbv3c device serve` on it",
    ),
    (
        "cannot find server that matches",
        "its server wants another --key, a --secret, or clients that come through its tracker",
    ),
    ("not TVM RPC server", "what listens there is no RPC server"),
    ("Cannot request", "the tracker gave a device that cannot be reached"),
)
_LOST = ("kShutdown", "is false: code=1", "Connection reset", "Broken pipe", "SocketError")


def _meaning(error: str) -> str:
    """Say in few words what went wrong, from what TVM says in many."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    for sign, meaning in _MEANINGS:
        if sign.lower() in error.lower():
            return f"{meaning} ({lines[-1]})"
    if any(sign in error for sign in _LOST):
        return f"the connection was lost; its server or its network is gone ({lines[-1]})"
    return lines[-1]
