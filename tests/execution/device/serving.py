"""Start servers and trackers as a user does: processes of their own, on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 120
HOST = "127.0.0.1"


@dataclass
class Served:
    """A running `mbv3c device serve`.

    Attributes:
        process: it; it leads a process group.
        document: what it printed when it was ready.
        log: the file of its progress.
    """

    process: subprocess.Popen[str]
    document: dict[str, Any]
    log: Path

    @property
    def port(self) -> int:
        port: int = self.document["port"]
        return port

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def await_line(self, text: str, seconds: float = 30, times: int = 1) -> None:
        """Wait until the log has a text so many times."""
        wait_for(lambda: self.log.read_text().count(text) >= times, seconds, self.log)

    def sessions(self) -> list[int]:
        """Return the processes of its sessions; there is one at most, but one may be ending."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Any, seconds: float, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log else "waited in vain"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process group, and wait for its leader."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@contextmanager
def served(
    folder: Path,
    *options: object,
    environment: Mapping[str, str] | None = None,
    python: tuple[str, ...] = (sys.executable,),
) -> Iterator[Served]:
    """Serve this machine, or the one whose Python is named."""
    log = folder / "serve.log"
    command = [*python, "-m", "mbv3c", "device", "serve", "--port", "0", "--json"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            env={**os.environ, "TMPDIR": str(folder), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,
        )
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, log.read_text()
        yield Served(process, json.loads(text), log)
    finally:
        end(process)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def tracked(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run TVM's tracker; it leaves a child behind unless its group is ended."""
    log = folder / f"tracker{time.monotonic_ns()}.log"
    options = ["--host", HOST, "--port", str(port), "--port-end", str(port + 1)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tvm.exec.rpc_tracker", *options],
            stdout=file,
            stderr=file,
            process_group=0,
        )
    try:
        wait_for(lambda: "bind to" in log.read_text() or process.poll() is not None, 60, log)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        end(process)
