"""TVM's tracker, which hands devices out: what a server and a list of devices say to it.

The protocol is that of `tvm.rpc.tracker`: after an exchange of magic numbers, messages of JSON
behind four bytes of length. A server reports itself and the key with which one client may come;
a client that asks for a device gets the address and that key. Beside the address stands whatever
else a server says of itself: ours says what it is and whether it is busy.
"""

import json
import select
import socket
import struct
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tvm.rpc.base import RPC_TRACKER_MAGIC, TrackerCode, random_key

from mbv3c.errors import ToolError
from mbv3c.execution.device.place import Address

_TIMEOUT = 5.0  # seconds for any answer; a tracker only keeps lists
_LARGEST = 1 << 24
_SERVER = "server:"


class Tracker:
    """A connection to a tracker; every method raises OSError when the tracker is gone."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection((address.host, address.port), _TIMEOUT)
        try:
            self.socket.sendall(struct.pack("<i", RPC_TRACKER_MAGIC))
            if receive(self.socket, 4, "the tracker") != struct.pack("<i", RPC_TRACKER_MAGIC):
                raise ConnectionError("what answers there is no TVM tracker")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def ask(self, *message: Any) -> Any:
        """Send a message and return the answer."""
        self.tell(*message)
        return self.answer()

    def tell(self, *message: Any) -> None:
        """Send a message."""
        data = json.dumps(message).encode()
        self.socket.sendall(struct.pack("<i", len(data)) + data)

    def answer(self) -> Any:
        """Wait for what it says."""
        (length,) = struct.unpack("<i", receive(self.socket, 4, "the tracker"))
        if not 0 < length <= _LARGEST:
            raise ConnectionError(f"the tracker answers with {length} bytes")
        try:
            return json.loads(receive(self.socket, length, "the tracker"))
        except ValueError as error:
            raise ConnectionError("the tracker answers with something that is no JSON") from error

    def order(self, *message: Any) -> None:
        """Send a message to which the tracker answers that it did as told."""
        _require_success(self.ask(*message))

    def summary(self) -> dict[str, Any]:
        """Return its devices and queues."""
        code, summary = self.ask(TrackerCode.SUMMARY)
        _require_success(code)
        return dict(summary)


def _require_success(code: Any) -> None:
    if code != TrackerCode.SUCCESS:
        raise ConnectionError(f"the tracker answers {code} instead of success")


def receive(connection: socket.socket, count: int, sender: str) -> bytes:
    """Wait for so many bytes; `sender` is a part of the error message.

    The connection's time-out, if it has one, is for all of them together.

    Raises:
        ConnectionError: the connection ends before.
        TimeoutError: they take longer than the time-out.
    """
    data = b""
    limit = connection.gettimeout()
    end = time.monotonic() + (limit or 0.0)
    try:
        while len(data) < count:
            if limit:
                connection.settimeout(max(1e-3, end - time.monotonic()))
            part = connection.recv(min(count - len(data), 65536))
            if not part:
                raise ConnectionError(f"{sender} closed the connection")
            data += part
    finally:
        connection.settimeout(limit)
    return data


class Registration(Tracker):
    """A server's entry at a tracker: offers it, and notices whether it was taken.

    Methods raise OSError when the tracker is gone; a new Registration replaces this one.
    """

    def __init__(
        self, address: Address, key: str, server: Address, advertised: str | None
    ) -> None:
        super().__init__(address)
        self._key, self._server, self._advertised = key, server, advertised
        self._taken_since: float | None = None
        self._beats = 0
        self.match_key = ""

    def fileno(self) -> int:
        return self.socket.fileno()

    def describe(self, document: dict[str, Any], *, busy: bool) -> None:
        """Say what the server is, and whether a client has it."""
        entry = {
            "key": _SERVER + self._key,
            "addr": [self._advertised, self._server.port],
            "busy": busy,
            "beat": self._beats,
            "machine": document,
        }
        self._beats += 1
        self.order(TrackerCode.UPDATE_INFO, entry)

    def offer(self) -> None:
        """Offer the server to one client, which will name `match_key`."""
        self.match_key = random_key(self._key)
        self._taken_since = None
        offered = [self._server.port, self.match_key]
        self.order(TrackerCode.PUT, self._key, offered, self._advertised)

    def renew(self, now: float, patience: float) -> None:
        """Offer the server again if a client took it `patience` seconds ago and did not come."""
        if self.match_key in self.ask(TrackerCode.GET_PENDING_MATCHKEYS):
            self._taken_since = None
        elif self._taken_since is None:
            self._taken_since = now
        elif now - self._taken_since > patience:
            self.offer()


class Request(Tracker):
    """Waits at a tracker for a device of a key.

    Raises:
        OSError: the tracker is gone; so do the methods.
    """

    def __init__(self, address: Address, key: str) -> None:
        super().__init__(address)
        self.tell(TrackerCode.REQUEST, key, "", 1)

    def poll(self, seconds: float) -> tuple[Address, str] | None:
        """Return a device and what to name as key there; None if none comes in some seconds."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return None
        code, (host, port, match_key) = self.answer()
        _require_success(code)
        return Address(host, port), match_key


@dataclass(frozen=True)
class Listed:
    """A device that a tracker has.

    Attributes:
        key: key to ask the tracker for.
        address: address of the device's server.
        busy: whether a client has the device; None where its server does not say.
        machine: description of the device, by `Machine.to_json`; None where its server gives none.
        beat: number that the server raises every few seconds; None where it counts none.
    """

    key: str
    address: Address
    busy: bool | None
    machine: dict[str, Any] | None
    beat: int | None = None


@dataclass(frozen=True)
class Queue:
    """What a tracker has under a key.

    Attributes:
        key: key to ask the tracker for.
        free: number of devices that wait for a client.
        waiting: number of clients that wait for a device.
    """

    key: str
    free: int
    waiting: int


def list_devices(address: Address) -> tuple[list[Listed], list[Queue]]:
    """Ask a tracker for its devices, by key and address, and its queues, by key.

    Raises:
        ToolError: nothing answers there, or something that is no tracker.
    """
    try:
        with closing(Tracker(address)) as tracker:
            summary = tracker.summary()
    except OSError as error:
        raise ToolError(
            f"the tracker {address} does not answer: {error}; start it with "
            f"`python -m tvm.exec.rpc_tracker --host HOST --port {address.port}`"
        ) from error
    devices = [
        Listed(
            key=entry["key"].removeprefix(_SERVER),
            address=Address(*entry["addr"]),
            busy=entry.get("busy"),
            machine=entry.get("machine"),
            beat=entry.get("beat"),
        )
        for entry in summary["server_info"]
    ]
    queues = [
        Queue(key, queue["free"], queue["pending"]) for key, queue in summary["queue_info"].items()
    ]
    return (
        sorted(devices, key=lambda device: (device.key, str(device.address))),
        sorted(queues, key=lambda queue: queue.key),
    )
