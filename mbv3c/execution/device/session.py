"""One client's time with a served device: a process of its own, in a folder of its own.

The process is forked before anything of TVM or OpenCL runs, so it is there in milliseconds, and
whatever a client's library does to it, the server stays whole.
"""

import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import tvm
from tvm.rpc import _ffi_api

from mbv3c.errors import ToolError
from mbv3c.execution.device.bench_session import Bench
from mbv3c.execution.device.machine import Machine, read_machine
from mbv3c.execution.device.stops import Stops
from mbv3c.execution.opencl.runtime import device_info
from mbv3c.process_tree import end_with_parent
from mbv3c.scratch import make_scratch

DESCRIBE = "mbv3c.device.describe"

_SEND_SECONDS = 5


@dataclass(frozen=True)
class Limits:
    """What a session may take.

    Attributes:
        seconds: how long it may last.
        upload_bytes: size of the largest file that the client may write.
        memory_bytes: memory of each of its processes, without what files and libraries take.
        disk_bytes: size of all files in its folder.
        files: number of files and folders in its folder.
    """

    seconds: float
    upload_bytes: int
    memory_bytes: int
    disk_bytes: int
    files: int

    def exceeded(self, folder: Path, more: int = 0, files: int = 0) -> str:
        """Say which limit is exceeded by what is in a folder and `more` bytes in new files.

        Nothing is said if none is.
        """
        count, size = files, more
        for entry in _entries(folder):
            count += 1
            with suppress(OSError):  # it may go while we look
                size += entry.stat(follow_symlinks=False).st_size
            if count > self.files:
                return f"it has more than {self.files:,} files, as --files allows"
        if size > self.disk_bytes:
            return f"its files are larger together than --disk-mib allows ({size >> 20:,} MiB)"
        return ""


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder and below; links are not followed."""
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


@dataclass
class Session:
    """A running session.

    Attributes:
        pid: process of the session, which leads a process group of its own.
        client: address of the client.
        folder: folder for the client's files; gone when the session is.
        lock: file descriptor that says that the folder is in use.
        connection: socket, which the server keeps to say why a session ended.
        over: pipe that ends when the process does.
        deadline: time at which the session is ended, by time.monotonic.
        limits: what the session may take.
        gone: time at which the client was seen to be gone; None while it is there.
        status: exit status of the process, once `end` knows it.
    """

    pid: int
    client: str
    folder: Path
    lock: int
    connection: socket.socket
    over: int
    deadline: float
    limits: Limits
    gone: float | None = None
    status: int | None = None

    def watch(self, poll: select.poll, grace: float) -> float:
        """Have a poll look at it; return the time at which it is to be ended.

        `grace` is how many seconds it has when its client is gone.
        """
        poll.register(self.over, select.POLLIN)
        if self.gone is None:
            poll.register(self.connection, select.POLLRDHUP)
            return self.deadline
        return min(self.deadline, self.gone + grace)

    def end(self) -> int:
        """Kill all processes of the session, remove its files, and return its exit status.

        The status is negative if a signal ended it, as in `subprocess`. Ends once, however often
        it is called.
        """
        if self.status is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self.over)
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self.lock)
        return self.status

    def tell(self, reason: str) -> None:
        """Have the client's present call fail with a reason; its process is no longer there."""
        timeout = struct.pack("ll", _SEND_SECONDS, 0)  # struct timeval
        with suppress(OSError, RuntimeError):  # the client may be gone, too
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            _ffi_api.ReturnException(self.connection.fileno(), reason)


def start_session(
    connection: socket.socket,
    client: str,
    limits: Limits,
    opencl_missing: str,
    closing: list[int],
) -> Session:
    """Fork the process that serves a client.

    Args:
        connection: socket after the handshake.
        client: address of the client, for people.
        limits: what the session may take.
        opencl_missing: reason why the server has no OpenCL; empty if it has.
        closing: file descriptors of the server that the process must not keep.

    Raises:
        OSError: there is no room for its folder, or no process left.
    """
    folder, lock = make_scratch("session")
    over, held = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        for descriptor in (over, *closing):
            os.close(descriptor)
        _serve_client(connection, folder, limits, opencl_missing)
    os.close(held)
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)  # both sides set it, so that it holds whoever comes first
    deadline = time.monotonic() + limits.seconds
    return Session(pid, client, folder, lock, connection, over, deadline, limits)


def _serve_client(
    connection: socket.socket, folder: Path, limits: Limits, opencl_missing: str
) -> NoReturn:
    """Be the session's process."""
    status = 1
    try:
        # Python ignores SIGXFSZ, and TVM would not notice that a file was cut short.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        with suppress(PermissionError):
            os.setpgid(0, 0)
        end_with_parent()
        for kind, limit in (
            (resource.RLIMIT_FSIZE, limits.upload_bytes),
            (resource.RLIMIT_DATA, limits.memory_bytes),
        ):
            resource.setrlimit(kind, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        connection.setblocking(True)
        _register_functions(folder, limits, opencl_missing)
        _ffi_api.ServerLoop(connection.fileno())
        status = 0
    except BaseException as error:
        print(f"session failed: {error}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(status)


def _register_functions(folder: Path, limits: Limits, opencl_missing: str) -> None:
    """Register what TVM's server calls for files, and what a client may ask."""

    def within(name: str) -> str:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{name!r} leads out of the session's folder")
        return str(path)

    def upload(name: str, data: bytes) -> None:
        path = Path(within(name))
        old = path.stat().st_size if path.is_file() else None
        exceeded = limits.exceeded(folder, len(data) - (old or 0), old is None)
        if exceeded:
            raise ValueError(f"{name!r} has no place in the session's folder: {exceeded}")
        path.write_bytes(data)

    functions = {
        "tvm.rpc.server.workpath": within,
        "tvm.rpc.server.upload": upload,
        "tvm.rpc.server.load_module": lambda name: tvm.runtime.load_module(within(name)),
        DESCRIBE: lambda: json.dumps(describe(opencl_missing).to_json()),
        **Stops().functions(),
        **Bench(within).functions(),
    }
    for name, function in functions.items():
        tvm.register_global_func(name, function, override=True)


def describe(opencl_missing: str = "") -> Machine:
    """Return what this machine is; opens the OpenCL driver unless something is known to miss."""
    machine = read_machine()
    if opencl_missing:
        return replace(machine, opencl_missing=opencl_missing)
    try:
        return replace(machine, opencl=device_info())
    except ToolError as error:
        return replace(machine, opencl_missing=str(error))
