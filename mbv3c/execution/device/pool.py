"""The devices that take contests: one by its address, or all that a tracker has under a key.

    take     waits for a device that is free and not set aside
    proven   it ran what it must be able to run: its faults are forgotten, it is back
    failed   a fault; after two in a row the device is set aside, and tried again later and later
    release  another may have it

A tracker decides which device comes next; one that is set aside is let go when it is offered too
early. Servers of ours count beats at the tracker, so one that hangs or is gone is noticed whether
or not it was in use.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mbv3c.errors import ToolError
from mbv3c.execution.device.machine import Machine, machine_from_json
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.tracker import Listed, Request, list_devices

Event = dict[str, Any]

_SLICE = 0.5  # seconds for which is waited at once
_LOOK = 2.0  # between two looks at the tracker's list


class DevicesGoneError(ToolError):
    """No device answers any more."""


class StoppedError(DevicesGoneError):
    """The pool was stopped, and with it what was under way."""


@dataclass(frozen=True)
class Patience:
    """How long faulty devices are borne with.

    Attributes:
        faults: number of faults in a row after which a device is set aside.
        silence: seconds without a beat at the tracker after which a device is set aside.
        first_pause: seconds until a device that was set aside is tried again; they double each
            time.
        last_pause: largest such number of seconds.
        wait: seconds without any device after which all are given up.
    """

    faults: int = 2
    silence: float = 12.0
    first_pause: float = 4.0
    last_pause: float = 60.0
    wait: float = 300.0


@dataclass
class Board:
    """A device, with its faults.

    Attributes:
        address: address of the device's server.
        machine: what the device says it is; None until it does.
        faults: number of faults in a row.
        reason: reason of the last fault.
        pause: seconds between the last two tries; 0 unless the device was set aside.
        until: time at which the device is tried again, by time.monotonic.
        since: time at which the device was set aside.
        beat: last number of its beats at the tracker, and the time at which that was new.
        reported: kinds of doubt about its times that were reported.
    """

    address: Address
    machine: Machine | None = None
    faults: int = 0
    reason: str = ""
    pause: float = 0.0
    until: float = 0.0
    since: float = 0.0
    beat: tuple[int | None, float] = (None, 0.0)
    reported: set[str] = field(default_factory=set)

    @property
    def aside(self) -> bool:
        return self.pause > 0

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.machine.name} at {self.address}" if self.machine else str(self.address)


@dataclass(frozen=True)
class Lease:
    """A device for one session.

    Attributes:
        board: the device.
        key: key to name when connecting.
        begun: time at which the device was taken.
    """

    board: Board
    key: str
    begun: float


class Pool:
    """Hands devices out, one session at a time; its methods may be called from any thread."""

    def __init__(
        self, place: Place, report: Callable[[Event], None], patience: Patience | None = None
    ) -> None:
        """Find the devices.

        Args:
            place: one device, or a tracker and a key.
            report: function that is told of devices that are set aside, that are back, whose
                times are doubtful; called from any thread, one at a time.
            patience: limits after which devices are set aside or given up.

        Raises:
            ToolError: the tracker does not answer, or has no device under the key.
        """
        self.place, self._report = place, report
        self.patience = patience or Patience()
        self.stopped = threading.Event()
        self._lock = threading.RLock()
        self._boards: dict[Address, Board] = {}
        self._used: Counter[Address] = Counter()
        self._heard = time.monotonic()
        self._despairing = False
        self._watch: threading.Thread | None = None
        if not place.tracked:
            self._boards[place.address] = Board(place.address)
            return
        listed = self._under_key()
        if not listed:
            raise ToolError(
                f"there is no {place}; `mbv3c device list --tracker {place.address}` shows what "
                "there is"
            )
        self._listed(listed)
        self._watch = threading.Thread(target=self._watching, daemon=True)
        self._watch.start()

    @property
    def boards(self) -> list[Board]:
        """All devices that were ever seen."""
        with self._lock:
            return list(self._boards.values())

    def stop(self) -> None:
        """Have everybody who waits give up."""
        self.stopped.set()
        if self._watch is not None:
            self._watch.join()

    # ---- who has which ----

    def take(self, begun: float) -> Lease:
        """Wait for a device.

        Args:
            begun: time since which a device has been wanted, by time.monotonic; failed sessions
                included.

        Raises:
            DevicesGoneError: none answered for too long.
            StoppedError: `stop` was called.
        """
        request: Request | None = None
        try:
            while True:
                if self.stopped.is_set():
                    raise StoppedError("stopped while waiting for a device")
                offered: tuple[Address, str] | None = None
                try:
                    if self.place.tracked:
                        request = request or Request(self.place.address, self.place.key)
                        offered = request.poll(_SLICE)
                    else:
                        offered = self._free()
                except OSError:  # the tracker is gone; it may come back
                    if request is not None:
                        request.close()
                    request = None
                    self.stopped.wait(_SLICE)
                if offered is not None:
                    lease = self._leased(*offered)
                    if lease is not None:
                        return lease
                    if request is not None:
                        request.close()
                    request = None
                self._check(begun)
        finally:
            if request is not None:
                request.close()

    def _free(self) -> tuple[Address, str] | None:
        """Return the only device if nobody has it and it is not to be left alone."""
        address = self.place.address
        with self._lock:
            if not self._used[address] and self._boards[address].until <= time.monotonic():
                return address, self.place.key
        self.stopped.wait(_SLICE)
        return None

    def _leased(self, address: Address, key: str) -> Lease | None:
        now = time.monotonic()
        with self._lock:
            board = self._boards.setdefault(address, Board(address))
            if board.until > now:
                return None
            self._used[address] += 1
            return Lease(board, key, now)

    def release(self, lease: Lease) -> None:
        """Let others have a device."""
        with self._lock:
            self._used[lease.board.address] -= 1

    def _check(self, begun: float) -> None:
        """Give up, or say that it will be done, when no device answers.

        Raises:
            DevicesGoneError: none answered for too long.
        """
        with self._lock:
            silent = time.monotonic() - max(self._heard, begun)
            if self._used.total():
                return
            if silent > self.patience.wait:
                names = "; ".join(
                    f"{board.name}: {board.reason or 'not free'}"
                    for board in self._boards.values()
                )
                raise DevicesGoneError(
                    f"no {self.place} answered for {self.patience.wait:g} s ({names}); what was "
                    "measured is in the database: start their servers again, and then this command"
                )
            gone = all(board.aside for board in self._boards.values())
            if gone and not self._despairing:
                self._despairing = True
                self._report({"event": "devices-gone", "seconds": self.patience.wait})

    # ---- what is known of them ----

    def proven(self, lease: Lease, document: dict[str, Any] | None) -> None:
        """Note that a device ran what it must be able to run, and what it says of itself."""
        board = lease.board
        with self._lock:
            self._heard = time.monotonic()
            board.faults = 0
            board.beat = (board.beat[0], self._heard)
            board.machine = _machine(document) or board.machine
            self._despairing = False
            if board.aside and lease.begun >= board.since:
                board.pause, board.until = 0.0, 0.0
                self._report({"event": "device-back", "device": board.name})
            doubts = board.machine.doubts if board.machine else {}
            for kind in doubts.keys() - board.reported:
                self._report({"event": "device-doubt", "device": board.name, "text": doubts[kind]})
            board.reported |= doubts.keys()

    def failed(self, lease: Lease, reason: str) -> None:
        """Note a fault of a device, or what may be one."""
        board = lease.board
        with self._lock:
            board.faults, board.reason = board.faults + 1, reason
            if board.aside and lease.begun >= board.since:
                board.pause = min(2 * board.pause, self.patience.last_pause)
                board.until = time.monotonic() + board.pause
            elif board.faults >= self.patience.faults:
                self._set_aside(board, reason)
            else:
                self._report({"event": "device-fault", "device": board.name, "text": reason})

    def _set_aside(self, board: Board, reason: str) -> None:
        if board.aside:
            return
        now = time.monotonic()
        board.pause, board.reason = self.patience.first_pause, reason
        board.since, board.until = now, now + board.pause
        self._report({"event": "device-aside", "device": board.name, "text": reason})

    # ---- the tracker's list ----

    def _under_key(self) -> list[Listed]:
        devices, _ = list_devices(self.place.address)
        return [device for device in devices if device.key == self.place.key]

    def _watching(self) -> None:
        while not self.stopped.wait(_LOOK):
            with suppress(ToolError):  # the tracker may come back; `take` waits so long
                self._listed(self._under_key())

    def _listed(self, listed: list[Listed]) -> None:
        """Note who is there, and whose beats have stopped."""
        now = time.monotonic()
        with self._lock:
            for device in listed:
                board = self._boards.setdefault(device.address, Board(device.address))
                if board.machine is None:
                    board.machine = _machine(device.machine)
                if device.beat is None or device.beat != board.beat[0]:
                    board.beat = (device.beat, now)
            for board in self._boards.values():
                if now - board.beat[1] > self.patience.silence:
                    self._set_aside(board, f"nothing was heard for {self.patience.silence:g} s")


def _machine(document: dict[str, Any] | None) -> Machine | None:
    """Read what a device says it is; None of a server that says nothing, or in newer words."""
    try:
        return machine_from_json(document) if document else None
    except TypeError:
        return None
