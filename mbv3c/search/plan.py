"""How long a search looks: all that decides its result, beside the space and the images."""

from dataclasses import asdict, dataclass
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.search.halving import Halving
from mbv3c.search.sample import Method


@dataclass(frozen=True)
class SearchPlan:
    """How many networks are asked for, and how long they are trained.

    Attributes:
        halving: the rounds of training; the sampler learns from the first.
        method: the sampler.
        batches: so many times the sampler is asked, and told.
        asked: networks for whose cost is asked, of each batch.
        trained: at most so many of them that meet the budget are trained.
        repeats: from so many seeds one network of each round is trained, to see the noise.
        final_steps: optimiser steps of the finalists.
        final_seeds: from so many seeds each finalist is trained.
        seed: seed of the sampler, and the first one of all trainings.

    Raises:
        UsageError: a value makes no sense.
    """

    halving: Halving
    method: Method = "tpe"
    batches: int = 3
    asked: int = 48
    trained: int = 12
    repeats: int = 3
    final_steps: int = 2000
    final_seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "asked", "trained", "repeats", "final_steps", "final_seeds"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise UsageError(f"--seed must be at least 0, got {self.seed}")
        if self.final_steps < self.halving.steps[-1]:
            raise UsageError(
                f"--final-steps must be at least {self.halving.steps[-1]}, the steps of the last "
                f"of --rounds; got {self.final_steps}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return all of it."""
        described = asdict(self)
        described["halving"]["steps"] = list(self.halving.steps)
        return described
