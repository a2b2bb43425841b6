"""Serve this machine as a device, over TVM's RPC protocol.

Where TVM's own server stops serving, this one goes on: after a session that crashed, clients
that connect and say nothing, one that vanished, a tracker that went away and came back. Its
sessions cannot outlive it, and a session that ended says why to its client.

    while True:
        clients come     → `visitors` → session (a process) of the first
        the session ends → its process group and its folder go; offered to the tracker again
        every 2 s        → the tracker hears that we are there, or is looked for again
"""

import ctypes
import json
import os
import platform
import select
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm.rpc.base import RPC_CODE_MISMATCH, RPC_CODE_SUCCESS

from mbv3c.errors import ToolError
from mbv3c.execution.device.admission import read_secret
from mbv3c.execution.device.machine import Machine, machine_from_json, read_machine
from mbv3c.execution.device.place import Address
from mbv3c.execution.device.serve_options import ServeOptions
from mbv3c.execution.device.session import Limits, Session, describe, start_session
from mbv3c.execution.device.tracker import Registration
from mbv3c.execution.device.visitors import RefusedError, Visitor, Visitors
from mbv3c.execution.opencl.runtime import load_runtime, opencl_drivers
from mbv3c.progress import Progress

_BEAT = 2.0  # seconds between two looks at the tracker
_UNUSED = 6.0  # seconds after which a device that was handed out and not used is offered again
_BACKLOG = 128  # connections that arrive between two looks
_GRACE = 3.0  # seconds that a session has to notice that its client is gone
_ANY_HOST = ("0.0.0.0", "::")  # noqa: S104
_PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Serving:
    """What is served: told when the port is open.

    Attributes:
        address: address of the open port.
        machine: description of this machine.
    """

    address: Address
    machine: Machine


def serve(options: ServeOptions, ready: Callable[[Serving], None], progress: Progress) -> None:
    """Serve this machine until an exception, such as KeyboardInterrupt, arrives.

    Whatever ends it, the running session's processes are killed and its files removed.

    Raises:
        UsageError: the options do not go together, or the secret cannot be read.
        ToolError: the port cannot be opened.
    """
    options.check()
    secret = read_secret(options.secret) if options.secret is not None else None
    if platform.system() != "Linux":
        raise ToolError(
            f"a device is served on Linux, and this is {platform.system()}; for an Android phone "
            "docs/android.md has another server"
        )
    with _listen(options) as listener:
        machine = _prepare(progress)
        server = _Server(options, Visitors(listener, secret, progress), machine, progress)
        ready(Serving(server.address, server.machine))
        with closing(server):
            while True:
                server.step()


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # a client may be gone before it is accepted
    except OSError as error:
        listener.close()
        raise ToolError(
            f"cannot listen at {Address(options.host, options.port)}: {error.strerror or error}; "
            "choose another --port, or an address of this machine as --host"
        ) from error
    return listener


def _prepare(progress: Progress) -> Machine:
    """Load what sessions will need, and find out what this machine is."""
    # MetaSchedule fills its inputs with a function of this library.
    extra = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_extra.so"
    if extra.is_file():
        ctypes.CDLL(str(extra), mode=ctypes.RTLD_GLOBAL)
    if not opencl_drivers():
        return replace(read_machine(), opencl_missing="no OpenCL driver is installed")
    try:
        load_runtime(progress=progress)
    except (ToolError, OSError, RuntimeError) as error:
        progress(f"serving without OpenCL: {error}")
        return replace(read_machine(), opencl_missing=str(error))
    return _described_by_a_child()


def _described_by_a_child() -> Machine:
    """Ask the OpenCL driver in a process of its own: it must not be open where sessions fork."""
    with tempfile.TemporaryFile() as file:
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                os.write(file.fileno(), json.dumps(describe().to_json()).encode())
            finally:
                os._exit(0)
        deadline = time.monotonic() + _PROBE_SECONDS
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.02)
        file.seek(0)
        text = file.read()
    if not text:
        return replace(read_machine(), opencl_missing="the OpenCL driver crashes or hangs")
    return machine_from_json(json.loads(text))


class _Server:
    """The state between two events."""

    def __init__(
        self, options: ServeOptions, visitors: Visitors, machine: Machine, progress: Progress
    ) -> None:
        self.machine = machine
        self.address = Address(options.host, visitors.listener.getsockname()[1])
        self._options, self._visitors, self._progress = options, visitors, progress
        self._next_beat = 0.0
        self._session: Session | None = None
        self._registration: Registration | None = None
        self._tracker_missed = False

    def step(self) -> None:
        """Wait for what happens next, and do what it asks for."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._beat()
            if self._session is not None:  # a library writes what it likes
                exceeded = self._session.limits.exceeded(self._session.folder)
                if exceeded:
                    self._end(self._session, f"the session was ended: {exceeded}")
            self._next_beat = now + _BEAT
        poll = select.poll()
        until = [self._next_beat, self._visitors.watch(poll)]
        if self._session is not None:
            until.append(self._session.watch(poll, _GRACE))
        end = min(time for time in until if time is not None)
        # A thousandth more: whatever waits for that time finds that it is over.
        events = dict(poll.poll(1000 * max(0.0, end - time.monotonic()) + 1))
        self._visitors.attend(events)
        self._visitors.judge(self._welcome)
        if self._session is not None:
            self._watch(self._session, events)
        if self._session is None:
            self._serve_next()

    def close(self) -> None:
        """End the session, send all clients away, and leave the tracker."""
        self._visitors.close()
        if self._session is not None:
            self._session.end()
            self._session.connection.close()
            self._session = None
        if self._registration is not None:
            self._registration.close()

    # ---- the tracker ----

    def _beat(self) -> None:
        """Be registered, or try to be."""
        tracker = self._options.tracker
        if tracker is None:
            return
        try:
            if self._registration is None:
                self._register(tracker)
            else:
                self._tell_tracker(self._registration)
                if self._session is None:
                    self._registration.renew(time.monotonic(), _UNUSED)
        except OSError as error:
            if self._registration is not None:
                self._registration.close()
                self._registration = None
            if not self._tracker_missed:
                self._progress(
                    f"the tracker {tracker} does not answer ({error}); trying every {_BEAT:g} s"
                )
                self._tracker_missed = True

    def _register(self, tracker: Address) -> None:
        advertised = None if self._options.host in _ANY_HOST else self._options.host
        registration = Registration(tracker, self._options.key, self.address, advertised)
        self._registration = registration
        self._tell_tracker(registration)
        if self._session is None:
            registration.offer()
        self._tracker_missed = False
        self._progress(f"registered as {self._options.key!r} at the tracker {tracker}")

    def _tell_tracker(self, registration: Registration) -> None:
        now = read_machine()
        self.machine = replace(
            self.machine,
            governors=now.governors,
            temperature=now.temperature,
            throttled=now.throttled,
        )
        registration.describe(self.machine.to_json(), busy=self._session is not None)

    # ---- clients ----

    def _welcome(self, visitor: Visitor) -> None:
        """Make sure that a client names what it must.

        Raises:
            RefusedError: it does not.
        """
        wanted = self._registration.match_key if self._registration else self._options.key
        assert visitor.words is not None
        if visitor.words[0] == f"client:{wanted}":
            return
        visitor.connection.send(struct.pack("<i", RPC_CODE_MISMATCH))
        raise RefusedError(
            "it does not come through the tracker" if self._registration else "it has another key"
        )

    def _serve_next(self) -> None:
        """Begin the session of the client that has waited for longest."""
        visitor = self._visitors.next()
        if visitor is None:
            return
        connection, client = visitor.connection, visitor.client
        descriptors = self._visitors.descriptors()
        if self._registration is not None:
            descriptors.append(self._registration.fileno())
        missing = self.machine.opencl_missing
        ours = f"server:{self._options.key}".encode()
        try:
            limits = self._limits(visitor)
            connection.send(struct.pack("<ii", RPC_CODE_SUCCESS, len(ours)) + ours)
            self._session = start_session(connection, client, limits, missing, descriptors)
        except (OSError, ValueError) as error:  # a full TMPDIR, or too many processes
            connection.close()
            self._progress(f"refused {client}: no session can be started: {error}")
            return
        self._next_beat = 0.0  # the tracker is to know
        self._progress(f"serving {client}")

    def _limits(self, visitor: Visitor) -> Limits:
        options = self._options
        asked = float(visitor.option("-timeout=") or options.session_seconds)
        memory = options.memory_mib
        return Limits(
            min(options.session_seconds, asked),
            options.upload_mib << 20,
            _memory_bytes() * 9 // 10 if memory is None else memory << 20,
            options.disk_mib << 20,
            options.files,
        )

    def _watch(self, session: Session, events: Mapping[int, int]) -> None:
        """End the session if it is over, its time is, or its client is gone for too long."""
        now = time.monotonic()
        if session.over in events:
            self._end(session)
        elif now > session.deadline:
            self._end(session, f"the session's {session.limits.seconds:g} s are over")
        elif session.gone is None:
            if session.connection.fileno() in events:
                session.gone = now
        elif now > session.gone + _GRACE:
            self._end(session, "its client is gone")

    def _end(self, session: Session, reason: str = "") -> None:
        status = session.end()
        if not reason and status < 0:
            reason = _died(-status)
        if reason:
            session.tell(f"{reason} (on {self.machine.name})")
        session.connection.close()
        self._session = None
        self._next_beat = 0.0
        self._progress(f"done with {session.client}" + (f": {reason}" if reason else ""))
        if self._registration is not None:
            with suppress(OSError):  # the next beat meets the same trouble, and says so
                self._tell_tracker(self._registration)
                self._registration.offer()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _died(number: int) -> str:
    """Say what ended a session's process."""
    known = {
        signal.SIGILL: "the library has instructions that this processor lacks",
        signal.SIGKILL: "most likely this machine ran out of memory",
        signal.SIGABRT: "perhaps it wanted more memory than --memory-mib allows",
        signal.SIGXFSZ: "a file became larger than --upload-mib allows",
    }
    name = signal.Signals(number).name
    meaning = f": {known[signal.Signals(number)]}" if number in known else ""
    return f"the session's process died of {name}{meaning}"
