"""Contests on devices: boards, phones, other machines, several of them at once.

What goes wrong in a session is the device's fault until the opposite is shown:

    session 1   the default kernel runs, the contest fails    → a fault of the device, perhaps
    session 2   the default kernel runs, the contest fails    → perhaps both at once
    session 3   the default kernel runs                       → it was the contest

on whichever devices are there, the others first. A session in which the default kernel does not
run counts against the device alone.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mbv3c.errors import ToolError
from mbv3c.execution.device import client
from mbv3c.execution.device.machine import DeviceNeeds, Machine
from mbv3c.execution.device.place import Place
from mbv3c.execution.device.pool import Event, Lease, Patience, Pool, StoppedError
from mbv3c.execution.device.runner import (
    CONNECT_SECONDS,
    RpcRunner,
    SessionError,
    run_client,
    session_result,
)
from mbv3c.execution.timing.stopwatch import build_stopwatch
from mbv3c.scratch import scratch_folder
from mbv3c.tuning.contest import Contest, TunableKernels, write_contest
from mbv3c.tuning.database import Task
from mbv3c.tuning.meters import (
    BuiltNetwork,
    Calls,
    ContestResult,
    ContestTimeoutError,
    Costs,
    microseconds,
)

_ROUNDS = 30
_BLOCKS, _RUNS = 20, 10  # of whole networks, as `bench` takes turns
_STEPS = 40  # more than a session has; together they may take this many times `seconds`


class DeviceMeter:
    """Times candidates on devices behind RPC servers, one thread, call by call.

    Attributes:
        pool: the devices.
        seconds: time that a device has for each step of a session.
        unit: unit of the costs.
    """

    unit = "us"

    def __init__(self, pool: Pool, needs: DeviceNeeds, folder: Path, seconds: float) -> None:
        """Build what devices need.

        Args:
            pool: the devices.
            needs: what their libraries need of them.
            folder: a place for files, as long as this is used.
            seconds: time that a device has for each step.

        Raises:
            ToolError: the stopwatch cannot be compiled.
        """
        self.pool, self.seconds = pool, seconds
        self._needs, self._folder = needs, folder
        self._stopwatch = folder / "stopwatch.so"
        self._proof: Path | None = None
        build_stopwatch(needs.triple, self._stopwatch)

    @property
    def slots(self) -> int:
        """Contests at once: one per device, and one that is built meanwhile."""
        return 1 + max(1, sum(not board.aside for board in self.pool.boards))

    @property
    def description(self) -> str:
        machines = [board.machine for board in self.pool.boards if board.machine]
        gpu = self._needs.opencl
        kinds = [m.opencl.sentence if gpu and m.opencl else m.processor for m in machines]
        what = (
            " and ".join(dict.fromkeys(kinds)) or "devices whose servers do not say what they are"
        )
        return f"{what}, {self.pool.place}{'' if gpu else ', one thread'}"

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What each device is, for those who read the database."""
        return [
            {"address": str(board.address), "machine": board.machine and board.machine.to_json()}
            for board in self.pool.boards
        ]

    def prove_with(self, task: Task, kernels: TunableKernels) -> None:
        """Build what every device must be able to run: the default kernel of a task, alone.

        Raises:
            Mbv3cError: it cannot be built.
        """
        folder = self._folder / "proof"
        folder.mkdir()
        write_contest(task, [kernels.default(task)], kernels, folder)
        self._proof = folder

    def prove_by(self, folder: Path) -> None:
        """Take what every device must be able to run: a folder that is laid out as a bundle."""
        self._proof = folder

    def measure(self, contest: Contest, timeout: float) -> ContestResult:
        """Run a contest on a device that is free.

        Raises:
            ContestTimeoutError: it took longer than `timeout` seconds, or those for a step.
            ToolError: it failed, and not because of a device.
            DevicesGoneError: no device answers any more.
        """
        sides = {"the candidates": contest.folder}
        with scratch_folder("contest") as folder:
            asked = {"contest": _ROUNDS}
            result = self._session(folder, sides, min(timeout, self.seconds), asked)
            outputs = [np.load(file) for file in result["outputs"]]
        return ContestResult(contest.costs(result["rounds"]), contest.results(outputs))

    def calls(self, wholes: Sequence[BuiltNetwork]) -> dict[BuiltNetwork, Calls]:
        return self._turns(wholes, "calls")

    def wholes(self, wholes: Sequence[BuiltNetwork]) -> dict[str, dict[BuiltNetwork, Costs]]:
        measured = self._turns(wholes, "wholes")
        return {self.unit: {network: microseconds(blocks) for network, blocks in measured.items()}}

    def _turns(self, wholes: Sequence[BuiltNetwork], measured: str) -> dict[BuiltNetwork, Any]:
        """Measure networks on one device, in one session."""
        sides = {f"network {number}": network for number, network in enumerate(wholes)}
        with scratch_folder("contest") as folder:
            folders = {side: network.folder for side, network in sides.items()}
            result = self._session(folder, folders, self.seconds, {"turns": measured})
        return {network: result["blocks"][side] for side, network in sides.items()}

    def _session(
        self, folder: Path, sides: Mapping[str, Path], seconds: float, asked: dict[str, Any]
    ) -> dict[str, Any]:
        """Hold sessions until one succeeds, or until it is certain that none will."""
        failures: list[SessionError] = []
        begun = time.monotonic()
        while True:
            lease = self.pool.take(begun)
            try:
                # Of what failed twice only the proof is left to be seen.
                given = sides if len(failures) < 2 else {}
                result = self._held(lease, folder, given, seconds, asked)
                self.pool.proven(lease, result["machine"])
            except SessionError as error:
                if error.proven:
                    self.pool.proven(lease, None)
                    failures.append(error)
                self.pool.failed(lease, str(error))
                continue
            finally:
                self.pool.release(lease)
            if given:
                return result
            last = failures[-1]
            raise ContestTimeoutError(str(last)) if last.late else ToolError(str(last))

    def _held(
        self,
        lease: Lease,
        folder: Path,
        sides: Mapping[str, Path],
        seconds: float,
        asked: dict[str, Any],
    ) -> dict[str, Any]:
        """Hold one session with a device, in a separate process."""
        assert self._proof is not None, "prove_with or prove_by comes first"
        address, secret = lease.board.address, self.pool.place.secret
        request = {
            "address": [address.host, address.port],
            "tracked": False,
            "key": lease.key,
            "secret": str(secret.absolute()) if secret else None,
            "library": None,
            "gpu": self._needs.opencl,
            "seconds": seconds,
            "wait_seconds": CONNECT_SECONDS,
            "session_seconds": CONNECT_SECONDS + seconds * _STEPS,
            "proof": str(self._proof),
            "stopwatch": str(self._stopwatch),
            "sides": {name: str(side) for name, side in sides.items()},
            "blocks": _BLOCKS,
            "runs": _RUNS,
            **asked,
        }
        for left in (client.STEP, client.RESULT):
            (folder / left).unlink(missing_ok=True)
        try:
            finished = run_client(folder, request, self.pool.stopped)
        except ToolError as error:
            if self.pool.stopped.is_set():
                raise StoppedError("stopped while a device measured") from error
            raise SessionError(str(error), late=True) from error
        return session_result(f"device {lease.board.name}", folder, finished)


@contextmanager
def opened(
    needs: DeviceNeeds,
    place: Place,
    report: Callable[[Event], None],
    patience: Patience | None = None,
    machine: Machine | None = None,
) -> Iterator[DeviceMeter]:
    """Reach the devices of a place; leave them alone when done, whatever happens.

    Args:
        needs: what the target's libraries need of them.
        place: one device, or a tracker and a key.
        report: function that is told of devices that fail, are set aside or are back; from any
                thread, one at a time.
        patience: how long devices are put up with.
        machine: what the device is, where that was asked before.

    Raises:
        UsageError: a device has another architecture.
        ToolError: the device or the tracker does not answer, or has no device under the key.
    """
    with scratch_folder("devices") as folder:
        pool = Pool(place, report, patience)
        try:
            if not place.tracked and machine is not None:
                pool.boards[0].machine = machine
            elif not place.tracked:
                device = RpcRunner(place, seconds=place.seconds)
                device.look()
                pool.boards[0].machine = device.machine
            for board in pool.boards:
                if board.machine is not None:
                    _check(board.machine, needs, report)
            yield DeviceMeter(pool, needs, folder, place.seconds)
        finally:
            pool.stop()


def _check(machine: Machine, needs: DeviceNeeds, report: Callable[[Event], None]) -> None:
    """Make sure that a device runs a target's libraries; report what makes times doubtful."""
    needs.check(machine, f"{needs.target} is for", machine.name, "tune for its own target")
    for doubt in needs.doubts(machine):
        report({"event": "device-doubt", "device": needs.target, "text": doubt})


def one_at_a_time(report: Callable[[Event], None]) -> Callable[[Event], None]:
    """Have whoever is told of events never be told of two at once, from whichever threads."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            report(event)

    return tell
