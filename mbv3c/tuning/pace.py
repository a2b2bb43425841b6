"""When a tuning stops, and how long what must still be done will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

FINALISTS = 3  # of a kernel, which meet the default once more
_NETWORKS = 2  # that are built to prove winners: with the default choices, and with them


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes:
        trials: candidates that are measured; None for any number.
        seconds: time for all of it, last contests and the whole network included; None for any.
        patience: batches of a kernel without a gain, after which it is left alone.
        begun: when the time began, by `now`.
        now: seconds since some moment in the past.
    """

    trials: int | None = None
    seconds: float | None = None
    patience: int = 3
    begun: float = field(default_factory=time.monotonic)
    now: Callable[[], float] = time.monotonic

    @property
    def left(self) -> float:
        """The seconds that are left; infinite without a limit."""
        return float("inf") if self.seconds is None else self.seconds - self.now() + self.begun

    @property
    def spent(self) -> bool:
        """Whether no time is left."""
        return self.left <= 0


@dataclass
class Pace:
    """How long candidates take, and what follows for the rest.

    Attributes:
        budget: when to stop.
        slots: how many contests are held at once.
        candidates: how many were built and measured, the defaults among them.
        seconds: how long that took, one contest after the other.
    """

    budget: Budget
    slots: int
    candidates: int = 0
    seconds: float = 0.0

    def held(self, candidates: int, seconds: float) -> None:
        """Learn how long a contest took."""
        self.candidates += candidates
        self.seconds += seconds

    @property
    def each(self) -> float:
        """The seconds for a candidate; 0 before any was measured."""
        return self.seconds / self.candidates if self.candidates else 0.0

    def network(self, kernels: int) -> float:
        """Estimate how long a network of so many kernels takes to be proven."""
        return self.each * kernels * _NETWORKS

    def is_time_for(self, batch: int, finals: int, kernels: int) -> bool:
        """Say whether a batch of candidates leaves time for the rest; the first one always does.

        Args:
            batch: candidates of the batch.
            finals: kernels with a winner so far, each of which has a last contest.
            kernels: kernels of the network.
        """
        if not self.candidates:
            return True
        last = self.each * (FINALISTS + 1) * finals / self.slots
        return self.each * (batch + 1) + last + self.network(kernels) < self.budget.left

    def finals(self, wanted: int, kernels: int) -> int:
        """Return for how many last contests there is time, at least for one."""
        left = self.budget.left - self.network(kernels)
        if not self.each or left == float("inf"):
            return wanted
        return max(1, min(wanted, int(left * self.slots / (self.each * (FINALISTS + 1)))))
