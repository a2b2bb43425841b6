"""What a search found: finalists beside MobileNetV3's widths, and what they differ by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mbv3c.accuracy.tally import Interval
from mbv3c.search.aim import Aim
from mbv3c.search.answers import Cost, Part, Record, Training
from mbv3c.search.front import ACCURACY, Axis, Point, axis_of
from mbv3c.search.plan import SearchPlan
from mbv3c.search.space import Candidate, Space
from mbv3c.search.statistics import (
    Paired,
    Right,
    SeedNoise,
    contrast,
    mcnemar,
    mean_accuracy,
    seed_noise,
)
from mbv3c.search.widths import Beside, share_above

SEARCHED, WIDTH = "searched", "width"


@dataclass(frozen=True)
class Sampled:
    """How many networks were looked at.

    Attributes:
        asked: networks that the sampler asked for.
        refused: those of them that the target does not take.
        over: those of them that do not meet the budget.
        again: those that meet it and were trained before.
        dropped: those that meet it and were more than were to be trained.
        trained: different networks that were trained.
    """

    asked: int
    refused: int
    over: int
    again: int
    dropped: int
    trained: int


@dataclass(frozen=True)
class Row:
    """A network in a round.

    Attributes:
        name: its name.
        cost: what it takes of each resource.
        accuracy: its accuracy on the validation images.
        kept: whether it went on.
    """

    name: str
    cost: Cost
    accuracy: float
    kept: bool


@dataclass(frozen=True)
class Round:
    """A round of training.

    Attributes:
        steps: optimiser steps.
        rows: its networks, the cheapest first.
        repeated: the network that was trained from several seeds.
        repeats: its accuracies.
        noise: the noise between seeds; None of one seed.
        order: rank correlation of the accuracies of those that went on with those of the next
            round; None of fewer than three, or after the last round.
    """

    steps: int
    rows: tuple[Row, ...]
    repeated: str
    repeats: tuple[float, ...]
    noise: SeedNoise | None
    order: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {
            "steps": self.steps,
            "networks": [
                {
                    "name": row.name,
                    "cost": dict(row.cost),
                    "accuracy": row.accuracy,
                    "kept": row.kept,
                }
                for row in self.rows
            ],
            "repeated": {"network": self.repeated, "accuracies": list(self.repeats)},
            "noise": None if self.noise is None else self.noise.to_json(),
            "rank_correlation": self.order,
        }


@dataclass(frozen=True)
class Final:
    """A network that was trained long, quantized and compiled.

    Attributes:
        candidate: the network.
        cost: what it takes of each resource, asked for as a whole.
        width: its width multiplier; None of a finalist of the search.
        rights: for each seed, on which of the judging images it is right.
        training: the training whose network was compiled.
        bundle: what is known of the bundle.
    """

    candidate: Candidate
    cost: Cost
    width: float | None
    rights: tuple[Right, ...]
    training: Training
    bundle: Record

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each seed."""
        return [float(right.mean()) for right in self.rights]


@dataclass(frozen=True)
class Comparison:
    """A finalist beside MobileNetV3 at widths of equal cost.

    Attributes:
        network: name of the finalist.
        below: name of the width that costs less; None where there is none.
        above: name of the width that costs as much or more; None where there is none.
        share: how far the finalist's cost lies from the lower to the upper one.
        difference: the finalist's accuracy less that of a width of equal cost, between the two;
            where there is only one of them, less that one's.
        paired: the first seed's network beside that of the upper width, or else the lower one.
    """

    network: str
    below: str | None
    above: str | None
    share: float
    difference: Interval
    paired: Paired

    @property
    def beats(self) -> bool | None:
        """Whether it is better beyond the noise; None where no width is so dear."""
        return None if self.above is None else self.difference.low > 0


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        space: the networks.
        aim: what counted.
        plan: how long it looked.
        judging: the images on which finalists were measured.
        sampled: how many networks were looked at.
        rounds: the rounds of training.
        finals: the finalists, and the widths beside them.
        beside: the widths beside each finalist, by its name.
    """

    space: Space
    aim: Aim
    plan: SearchPlan
    judging: Part
    sampled: Sampled
    rounds: tuple[Round, ...]
    finals: tuple[Final, ...]
    beside: Mapping[str, Beside]

    @cached_property
    def noise(self) -> SeedNoise | None:
        """The noise between seeds of the finalists and widths."""
        return seed_noise([final.accuracies for final in self.finals])

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Accuracy, and the resource that counts."""
        return ACCURACY, axis_of(self.aim.resource)

    @property
    def finalists(self) -> list[Final]:
        """What the search chose, the cheapest first."""
        chosen = [final for final in self.finals if final.width is None]
        return sorted(chosen, key=lambda final: final.cost[self.aim.resource])

    def title(self, final: Final) -> str:
        """Return what a network is called."""
        if final.width is None:
            return final.candidate.name
        several = len(self.space.resolutions) > 1
        side = f"_{final.candidate.resolution}" if several else ""
        return f"{self.space.variant}_{final.width:g}{side}"

    def points(self) -> list[Point]:
        """Return the points of the front: mean accuracies with intervals, and costs."""
        found = []
        for final in self.finals:
            accuracy = mean_accuracy(final.rights, self.noise)
            series = SEARCHED if final.width is None else f"{self.space.variant}, {WIDTH}"
            values = {ACCURACY.key: accuracy.share, **final.cost}
            found.append(Point(self.title(final), values, series, {ACCURACY.key: accuracy}))
        return found

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Each finalist beside the widths of equal cost."""
        return [self._compared(final) for final in self.finalists]

    def _compared(self, final: Final) -> Comparison:
        beside = self.beside[final.candidate.name]
        below, above = (self._width(final, each) for each in (beside.below, beside.above))
        resource = self.aim.resource
        share = 1.0 if below is None else 0.0
        if below is not None and above is not None:
            share = share_above(final.cost[resource], below.cost[resource], above.cost[resource])
        sides = [(share, above), (1 - share, below)]
        parts: list[tuple[float, Sequence[Right]]] = [(1.0, final.rights)]
        parts += [(-weight, side.rights) for weight, side in sides if side is not None and weight]
        nearest = above or below
        assert nearest is not None  # the family is not empty
        return Comparison(
            self.title(final),
            None if below is None else self.title(below),
            None if above is None else self.title(above),
            share,
            contrast(parts, self.noise),
            mcnemar(final.rights[0], nearest.rights[0]),
        )

    def _width(self, final: Final, width: float | None) -> Final | None:
        side = final.candidate.resolution
        return next(
            (
                each
                for each in self.finals
                if width is not None and each.width == width and each.candidate.resolution == side
            ),
            None,
        )
