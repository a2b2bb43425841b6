"""What a search is after: accuracy within a budget, or a trade of accuracy for cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from mbv3c.errors import UsageError

# Exponents of the reward ACC x (LAT/TAR)^w: MnasNet's (arXiv:1807.11626, section 3: twice the
# latency for 5 % relative gain of accuracy is an even trade), and that of MobileNetV3-Small
# (arXiv:1905.02244, section 4.1: accuracy changes more with the latency of small networks).
WEIGHTS = {"large": -0.07, "small": -0.15}

_ABOVE = 1.5  # of the target, which a reward makes soft


@dataclass(frozen=True)
class Aim:
    """What counts, beside accuracy.

    Attributes:
        resource: what is to be low: the key of a target's time-like resource.
        target: what a network may take of it.
        weight: the exponent of the reward ACC x (COST / target)^weight, which makes the target a
            soft one; None where it is a limit.
        least: networks that take less than this share of the target are left out: they compete
            with others than the ones sought.
        limits: hard limits of other resources, by key.

    Raises:
        UsageError: a value makes no sense.
    """

    resource: str
    target: float
    weight: float | None = None
    least: float = 0.5
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.target < inf:
            raise UsageError(f"--budget must be above 0, got {self.target:g}")
        if self.weight is not None and not -10 <= self.weight <= 0:
            raise UsageError(
                f"--reward, an exponent, must lie between -10 and 0, got {self.weight:g}; "
                f"MnasNet has {WEIGHTS['large']:g}"
            )
        if not 0 <= self.least < 1:
            raise UsageError(f"--least must be from 0 to below 1, got {self.least:g}")

    @property
    def most(self) -> float:
        """How much of the resource a network may take to be looked at."""
        return self.target if self.weight is None else self.target * _ABOVE

    def excess(self, cost: Mapping[str, float]) -> float:
        """Return by how much a network is outside, relative to what it may be; 0 inside."""
        taken = cost[self.resource]
        over = [taken / self.most - 1, self.least - taken / self.target]
        over += [cost[key] / limit - 1 for key, limit in self.limits.items()]
        return sum(max(0.0, each) for each in over)

    def below(self, cost: Mapping[str, float]) -> bool:
        """Say whether a network takes less than the least share of the target."""
        return cost[self.resource] / self.target < self.least

    def meets(self, cost: Mapping[str, float]) -> bool:
        """Say whether a network is within all that is a hard limit."""
        within = all(cost[key] <= limit for key, limit in self.limits.items())
        return within and cost[self.resource] <= self.most

    def reward(self, accuracy: float, cost: Mapping[str, float]) -> float:
        """Return what a network is worth; higher is better."""
        if self.weight is None:
            return accuracy
        return accuracy * float((cost[self.resource] / self.target) ** self.weight)

    def to_json(self) -> dict[str, Any]:
        """Return all that decides what is looked for."""
        return {
            "resource": self.resource,
            "target": self.target,
            "weight": self.weight,
            "least": self.least,
            "limits": dict(self.limits),
        }
