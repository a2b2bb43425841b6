"""The table that `tune` keeps up to date on a terminal."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mbv3c.tuning.session import event_sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbv3c.tuning.tuner import Event

_LINES_AROUND = 7  # of a terminal: the table's head and foot


@dataclass
class _Row:
    task: str
    calls: int
    measured: int
    legal: int
    cost: float | None = None
    best: float = 1.0

    @property
    def spent(self) -> float:
        return self.calls * (self.cost or 0.0) * self.best


@dataclass
class LiveTable:
    """The state of a search, as far as its events tell.

    Attributes:
        now: seconds since some moment in the past; for the time that is left.
    """

    now: "Callable[[], float]" = time.monotonic
    unit: str = ""
    rows: dict[str, _Row] = field(default_factory=dict)
    trials: int = 0
    most_trials: int | None = None
    seconds: float | None = None
    network: float | None = None
    failures: dict[str, int] = field(default_factory=dict)
    current: str = ""
    last: str = ""
    began: float = 0.0

    def learn(self, event: "Event") -> None:
        """Take an event into the picture; of kinds that are not drawn, its words are shown."""
        match event["event"]:
            case "start":
                self.began, self.unit = self.now(), event["unit"]
                self.most_trials, self.seconds = event["trials"], event["seconds"]
                self.rows = {task["task"]: _Row(**task) for task in event["tasks"]}
            case "batch":
                row = self.rows[event["task"]]
                row.measured, row.cost, row.best = event["measured"], event["cost"], event["best"]
                self.trials, self.network = event["trials"], event["network"]
                self.failures, self.current = event["failures"], event["task"]
            case _:
                self.current, self.last = "", event_sentence(event)

    def left(self) -> float | None:
        """Return the seconds that the budget still gives, by the speed so far; None if unknown."""
        passed = self.now() - self.began
        times = []
        if self.seconds is not None:
            times.append(self.seconds - passed)
        if self.most_trials is not None and self.trials:
            times.append(passed / self.trials * (self.most_trials - self.trials))
        return max(0.0, min(times)) if times else None

    def draw(self, height: int) -> Group:
        """Return the table, of as many kernels as fit; those that cost most come first."""
        if not self.rows:
            return Group(Text("looking for what there is to tune"))
        table = Table(box=None, pad_edge=False, header_style="bold")
        figures = ("calls", "measured", f"default,\n{self.unit}", "best", "gain", "share")
        table.add_column("kernel")  # the one that gives way where a terminal is narrow
        for name in figures:
            table.add_column(name, justify="right", no_wrap=True)
        total = sum(row.spent for row in self.rows.values())
        ordered = sorted(self.rows.values(), key=lambda row: -row.spent)
        fitting = max(1, height - _LINES_AROUND)
        for row in ordered[:fitting]:
            known = row.cost is not None
            table.add_row(
                Text(row.task, no_wrap=True, overflow="ellipsis"),
                str(row.calls),
                f"{row.measured}/{row.legal}",
                f"{row.cost:,.0f}" if row.cost is not None else "",
                f"{row.best:.3f}" if known else "",
                f"{1 - row.best:.1%}" if known and row.best < 1.0 else "",
                f"{row.spent / total:.1%}" if known else "",
                style="bold" if row.task == self.current else "",
            )
        hidden = len(ordered) - fitting
        more = [Text(f"and {hidden} kernels more")] if hidden > 0 else []
        return Group(table, *more, Text(self._foot()), Text(self.last))

    def _foot(self) -> str:
        of = f" of {self.most_trials}" if self.most_trials is not None else ""
        parts = [f"{self.trials}{of} candidates"]
        if self.failures:
            failed = ", ".join(f"{count} {kind}" for kind, count in self.failures.items())
            parts.append(f"failed: {failed}")
        if self.network is not None:
            parts.append(f"whole network estimated {self.network:.3f} of the default")
        left = self.left()
        if left is not None:
            parts.append(f"{_clock(left)} left")
        return "; ".join(parts)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
