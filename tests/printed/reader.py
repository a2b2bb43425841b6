"""Follow a page as a reader does: in a clean folder, line after line, each through bash."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mbv3c.execution.cache import cache_root
from tests.printed.lines import ROOT, Line

SECONDS = 1800
# What a cache has beside tools: a page begins without it.
FINDINGS = {"accuracy", "costs", "examples", "job-images", "jobs", "lock", "times.jsonl"}
# What goes on until it is ended, and what it says when it is ready.
SERVERS = {
    "device serve": "serving ",
    "rpc_tracker": "bind to",
    "rpc_server": "bind to",
    "cluster scheduler": "scheduler at ",
    "cluster worker": "worker at ",
}
WRITES = re.compile(
    r" (?:-o|--output|--report|--junit|--html|--plot|--save-[a-z]+|-keyout|-out) +([^ &|;]+)"
)


class WrongLineError(AssertionError):
    """A line that does not do what its page says; the message names page and line."""


@dataclass
class Server:
    kind: str
    host: str
    process: "subprocess.Popen[bytes]"

    def gives_way(self, kind: str, host: str) -> bool:
        """Say whether a reader ends this one before they start another one."""
        if kind == "cluster scheduler":  # for which the workers of the last one do not look
            return self.kind.startswith("cluster ")
        return (self.kind, self.host) == (kind, host) != ("cluster worker", host)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


@dataclass
class Reader:
    """Someone in a clean folder with a clean home; `with` ends what they started.

    Attributes:
        folder: both are in it, and logs of servers.
        servers: what runs until the page is done.
    """

    folder: Path
    servers: list[Server] = field(default_factory=list)

    def __enter__(self) -> "Reader":
        self.work.mkdir()
        cache = self.home / ".cache" / "mbv3c"
        cache.mkdir(parents=True)
        for tool in cache_root().iterdir() if cache_root().is_dir() else ():
            if tool.name not in FINDINGS:
                (cache / tool.name).symlink_to(tool)
        return self

    def __exit__(self, *_: object) -> None:
        for server in reversed(self.servers):
            end(server.process)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "MBV3C_CACHE" and not name.startswith(("XDG_", "PYTEST_"))
        }
        path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
        return {**kept, "HOME": str(self.home), "PATH": path, "PYTHONPATH": str(ROOT)}

    def follow(self, line: Line, typed: str) -> str:
        """Run a line as `typed`, and return what it printed.

        Raises:
            WrongLineError: it failed, ended in a traceback, or wrote no file that it names.
        """
        kind = next((kind for kind in SERVERS if f" {kind} " in _plain(typed)), None)
        return self._serve(line, typed, kind) if kind else self._run(line, typed)

    def _run(self, line: Line, typed: str) -> str:
        where = self.folder / "where"
        here = Path(where.read_text().strip()) if where.exists() else self.work
        script = (
            f"set -o pipefail\n{typed}\nstatus=$?\npwd > {shlex.quote(str(where))}\nexit $status"
        )
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=here,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            said = process.communicate(timeout=SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise WrongLineError(f"{line}\ndid not end within {SECONDS} s") from None
        finally:
            end(process)
        self._check(line, typed, process.returncode, said)
        for name in WRITES.findall(typed):
            if not (here / name).exists():
                raise WrongLineError(f"{line}\nran as: {typed}\nwrote no {name}:\n{said}")
        return said

    def _check(self, line: Line, typed: str, code: int, said: str) -> None:
        if code or "Traceback (most recent call last)" in said:
            raise WrongLineError(f"{line}\nran as: {typed}\nexit code {code}:\n{said}")

    def _serve(self, line: Line, typed: str, kind: str) -> str:
        host = "".join(re.findall(r"--host (\S+)", typed))
        for server in self.servers:
            if server.gives_way(kind, host):
                end(server.process)
        log = self.folder / f"server{len(self.servers)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {typed}"],
                cwd=self.work,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                process_group=0,
            )
        self.servers.append(Server(kind, host, process))
        latest = time.monotonic() + 300
        while SERVERS[kind] not in (said := log.read_text()):
            code = process.poll()
            if code is not None or time.monotonic() > latest:
                raise WrongLineError(f"{line}\nran as: {typed}\nis not ready ({code}):\n{said}")
            time.sleep(0.05)
        return said


def _plain(typed: str) -> str:
    """Return the words of a command with single blanks, modules without their package."""
    return " " + " ".join(typed.replace("tvm.exec.", "").split()) + " "
