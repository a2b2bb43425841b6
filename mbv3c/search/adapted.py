"""An adaptation as data: what it is asked, what it is done with, and what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from mbv3c.errors import UsageError
from mbv3c.progress import Progress
from mbv3c.search.budget import Budget
from mbv3c.search.channels import Site
from mbv3c.search.proposals import Costs
from mbv3c.search.statistics import Right


@dataclass(frozen=True)
class Tuned:
    """A network that was trained, and on which validation images it is right."""

    model: onnx.ModelProto
    right: Right


# Trains networks for a short while; each has a title for people.
Tune = Callable[[Sequence[tuple[str, onnx.ModelProto]]], Sequence[Tuned]]


@dataclass(frozen=True)
class Means:
    """What adaptation is done with.

    Attributes:
        costs: what networks cost on the target.
        judge: says on which validation images a network is right.
        tune: trains networks for a short while.
        finish: trains the last network to the end; None to leave it as it is.
        progress: is told what is being done.
    """

    costs: Costs
    judge: Callable[[onnx.ModelProto], Right]
    tune: Tune
    finish: Callable[[onnx.ModelProto], Tuned] | None
    progress: Progress


@dataclass(frozen=True)
class AdaptPlan:
    """How a network is adapted.

    Attributes:
        budgets: what it may take.
        saving: what each step saves at least, as a share of what the given network takes.
        decay: by which the saving becomes smaller with each step.
        grain: channel counts that are proposed are multiples of this.
        kept: names of sites, or kinds of them, that are not cut.

    Raises:
        UsageError: a value makes no sense.
    """

    budgets: tuple[Budget, ...]
    saving: float = 0.05
    decay: float = 0.98
    grain: int = 8
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.saving <= 0.5:
            raise UsageError(
                f"--saving must be above 0 and at most 0.5 of the cost, got {self.saving:g}"
            )
        if not 0.5 <= self.decay <= 1:
            raise UsageError(f"--decay must lie between 0.5 and 1, got {self.decay:g}")
        if self.grain < 1:
            raise UsageError(f"--grain must be at least 1, got {self.grain}")

    def to_json(self) -> dict[str, Any]:
        return {
            "budgets": [budget.text for budget in self.budgets],
            "saving": self.saving,
            "decay": self.decay,
            "grain": self.grain,
            "kept": list(self.kept),
        }


@dataclass(frozen=True)
class Tried:
    """A proposal of a step after its short training.

    Attributes:
        site: what is cut, with the channels that it had.
        count: the channels that it keeps.
        cost: what the network costs then.
        right: on which validation images it is right.
    """

    site: Site
    count: int
    cost: Mapping[str, float]
    right: Right


@dataclass(frozen=True)
class Step:
    """One step: its proposals, and the one that was taken.

    Attributes:
        number: counts from 1.
        resource: key of the resource that had to be saved.
        saving: how much had to be saved.
        tried: the proposals, the best one first.
        last: whether all of them met the budget, so that accuracy alone decided.
        cost: what the network costs as a whole.
        asked: how many cuts were asked for.
    """

    number: int
    resource: str
    saving: float
    tried: tuple[Tried, ...]
    last: bool
    cost: Mapping[str, float]
    asked: int


@dataclass(frozen=True)
class Adapted:
    """What came of an adaptation.

    Attributes:
        model: the network.
        limits: what it may take, by the keys of resources.
        time: key of the target's time-like resource.
        first_cost: what the given network costs.
        first_right: on which validation images the given network is right.
        control: on which the given network is right after a short training of its own; None
            where there was no step.
        steps: the steps.
        left_right: on which the network is right after the last step.
        right: on which the result is right.
        cost: what the result costs.
        finished: whether it was trained to the end.
        stuck: why it does not meet the budget; empty where it does.
    """

    model: onnx.ModelProto
    limits: Mapping[str, float]
    time: str
    first_cost: Mapping[str, float]
    first_right: Right
    control: Right | None
    steps: tuple[Step, ...]
    left_right: Right
    right: Right
    cost: Mapping[str, float]
    finished: bool
    stuck: str
