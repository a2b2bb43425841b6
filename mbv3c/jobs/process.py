"""One attempt at a job, in a process group of its own."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mbv3c.errors import ToolError
from mbv3c.jobs.child import EXIT_FULL, FILES, JOB, OUTCOME, clear_attempt, command_of
from mbv3c.jobs.engine import JobFailed
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.process_tree import descendants_of, state_of
from mbv3c.quoting import for_terminal

LOG = "log"
ATTEMPTS = 3  # of a job whose process dies
_SHOWN_LINES, _SHOWN_BYTES = 12, 1 << 14
# Threads that wait for each other at full speed take the time of other jobs, and sums depend on
# their number.
_THREADS = ("OMP", "OPENBLAS", "MKL", "TVM")


@dataclass
class Attempt:
    """A job under way.

    Attributes:
        job: the job.
        name: its name.
        number: counts the attempts from 1 on.
    """

    job: Job
    name: str
    number: int
    _folder: Path
    _process: subprocess.Popen[bytes]
    _held: int

    def ended(self) -> bool:
        """Say whether its process has ended; what it has started is ended with it then."""
        gone = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if gone is None:
            return False
        self.kill()
        return True

    def kill(self) -> None:
        """End it and all that it has started."""
        if self._process.returncode is not None:
            return
        # The leader is not reaped yet, so that its number belongs to nobody else. What has left
        # its group is still below it.
        below = descendants_of(self._process.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in below:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        os.close(self._held)

    def outcome(self, store: Store) -> JobFailed | None:
        """Keep the result of one that has ended; return why there is none.

        Raises:
            BundleError: the result cannot be written.
        """
        try:
            said: dict[str, Any] = json.loads((self._folder / OUTCOME).read_bytes())
        except FileNotFoundError:
            return self._failed(self._death(), None)
        if "error" in said:
            return self._failed(said["error"]["message"], said["error"]["kind"])
        files = self._folder / FILES
        found = {path.relative_to(files): path for path in files.rglob("*") if path.is_file()}
        kept = {
            name.as_posix(): path
            for name, path in found.items()
            if not any(part.startswith(".") for part in name.parts)
        }
        store.keep(self.name, said["document"], kept)
        store.finish(self.name)
        return None

    def said(self) -> str:
        """Return the last line that it wrote; empty if it wrote none."""
        return next(reversed(last_lines(self._folder / LOG)), "")

    def stopped(self) -> list[int]:
        """Return its processes that somebody has stopped, as by SIGSTOP, and not continued."""
        leader = self._process.pid
        return [one for one in (leader, *descendants_of(leader)) if state_of(one)[0]]

    @property
    def died(self) -> bool:
        """Whether its process was ended by a signal, by what it ran or by the system."""
        return self._process.returncode < 0 and not (self._folder / OUTCOME).exists()

    def _death(self) -> str:
        code = self._process.returncode
        if code == EXIT_FULL:
            return f"there is no space left for {self._folder}; free some and call it again"
        if code >= 0:
            return f"its process ended with status {code}"
        try:
            text = signal.Signals(-code).name
        except ValueError:
            text = f"signal {-code}"
        again = f", {self.number} times" if self.number > 1 else ""
        return f"its process was ended by {text}{again}"

    def _failed(self, reason: str, cause: str | None) -> JobFailed:
        lines = [f"\n  repeat it by: {' '.join(command_of(self._folder))}"]
        if cause is None:
            last = last_lines(self._folder / LOG)
            lines = [*("\n  " + line for line in last), *lines]
        return JobFailed(self.job, reason, "".join(lines), cause)


def start(job: Job, store: Store, claim: IO[bytes], number: int, threads: int) -> Attempt:
    """Begin a job in a process group of its own, which ends when this process does.

    Args:
        job: what to do; the store holds its input files.
        store: where the result is to go.
        claim: the job's claim, which the new processes inherit.
        number: counts the attempts from 1 on.
        threads: threads that libraries may use.

    Raises:
        BundleError: the store lacks an input file.
        ToolError: no process can be started.
    """
    name = job.name
    folder = store.attempt(name)
    clear_attempt(folder)
    paths = {each: str(store.get(digest)) for each, digest in job.files.items()}
    (folder / JOB).write_text(json.dumps({**job.to_json(), "files": paths}, indent=1), "utf-8")
    environment = {**os.environ, **{f"{one}_NUM_THREADS": str(threads) for one in _THREADS}}
    held, keeps = os.pipe()
    try:
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                command_of(folder, held),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(held, claim.fileno()),
                process_group=0,
            )
    except OSError as error:
        os.close(keeps)
        raise ToolError(f"cannot start the process of {job}: {error.strerror}") from error
    finally:
        os.close(held)
    return Attempt(job, name, number, folder, process, keeps)


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a log, without what moves a cursor."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _SHOWN_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return for_terminal("\n".join(text.strip().splitlines()[-_SHOWN_LINES:])).split("\n")
