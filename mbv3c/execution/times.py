"""How long commands took on this machine, kept in the cache; what cannot be kept is let go."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import ToolError
from mbv3c.execution.cache import cache_root
from mbv3c.records import append, open_locked

FILE = "times.jsonl"
_LARGEST = 1 << 20  # bytes; beyond half of that the older half is dropped


@dataclass(frozen=True)
class Work:
    """What a command works on.

    Attributes:
        command: its name.
        model: the path of the model or bundle, or what is built.
        target: FAMILY:DEVICE; empty where there is none.
        precision: the precision as it was asked for; empty for the default one.
    """

    command: str
    model: str
    target: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Took:
    """How long work took.

    Attributes:
        work: the work.
        seconds: how long it took.
        date: when it ended, in UTC.
    """

    work: Work
    seconds: float
    date: str

    @property
    def text(self) -> str:
        """In words."""
        minutes, seconds = divmod(round(self.seconds), 60)
        shown = f"{self.seconds:.1f} s" if self.seconds < 60 else f"{minutes} min {seconds} s"
        return f"{shown}, on {self.date[:10]}"


@contextmanager
def noting(work: Work) -> Iterator[None]:
    """Note how long the block took, if it ends without an error."""
    begun = time.monotonic()
    yield
    took = Took(work, time.monotonic() - begun, datetime.now(UTC).isoformat(timespec="seconds"))
    with suppress(OSError, ToolError):
        path = cache_root() / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(path, patience=0.0) as file:
            if file.seek(0, 2) > _LARGEST // 2:
                kept = read_plain(path, _LARGEST).splitlines(keepends=True)
                file.truncate(0)
                append(file, b"".join(kept[len(kept) // 2 :]))
            append(file, json.dumps(asdict(took)).encode() + b"\n")


def last(work: Work) -> Took | None:
    """Return how long work took when it was last done; else that for another model, if any."""
    alike = [took for took in _all() if _like(took.work) == _like(work)]
    own = [took for took in alike if took.work == work]
    return next(reversed(own or alike), None)


def _like(work: Work) -> Sequence[str]:
    return work.command, work.target, work.precision


def _all() -> list[Took]:
    """Read what was noted; a line that is none of ours is passed over."""
    found = []
    with suppress(OSError, Refused, ToolError):
        for line in read_plain(cache_root() / FILE, _LARGEST).splitlines():
            with suppress(Refused, KeyError, TypeError, ValueError):
                row = parse_json(line)
                work = Work(**{name: str(text) for name, text in dict(row["work"]).items()})
                found.append(Took(work, float(row["seconds"]), str(row["date"])))
    return found
