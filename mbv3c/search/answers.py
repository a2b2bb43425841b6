"""What a search asks: costs of networks, their accuracy after a training, and bundles of them.

The answers come from jobs, or in tests from plain functions. What was answered is in the search's
journal, and is not asked again.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from mbv3c.errors import ModelError
from mbv3c.search.space import Candidate
from mbv3c.search.statistics import Right

Part = Literal["validation", "test"]
Cost = Mapping[str, float]
Record = dict[str, Any]
Key = tuple[str | int, ...]
Question = TypeVar("Question")


@dataclass(frozen=True)
class Refused:
    """In the place of a cost: the target does not take the network.

    Attributes:
        reason: why, in words.
    """

    reason: str


@dataclass(frozen=True)
class Training:
    """A network trained from seeded weights, and where its accuracy is measured.

    Attributes:
        candidate: the network.
        steps: optimiser steps.
        seed: seed of the weights, of the order of the images and of what is drawn for them.
        part: the images on which it is measured.
    """

    candidate: Candidate
    steps: int
    seed: int
    part: Part

    @property
    def key(self) -> Key:
        """What it is known by."""
        return (self.candidate.name, self.steps, self.seed, self.part)


class Answers(Protocol):
    """What knows, or finds out."""

    @property
    def judging(self) -> Part:
        """The images on which finalists are measured; those on which they were chosen flatter."""

    def costs(
        self, candidates: Sequence[Candidate], *, whole: bool = False
    ) -> list[Cost | Refused]:
        """Return what networks take of each resource, or why the target refuses one.

        `whole` asks for each network as a whole, and does not add up what is known of its layers.
        """

    def train(self, trainings: Sequence[Training]) -> list[Right]:
        """Train networks, and return on which images each is right."""

    def model(self, training: Training) -> Path:
        """Return the file of a trained network, ONNX."""

    def compile(self, trainings: Sequence[Training]) -> list[Record]:
        """Quantize and compile trained networks, and return what is known of the bundles."""


class Known(Protocol):
    """A journal: what was found before, by its key; `mbv3c.search.journal.Journal` is one."""

    def knows(self, *key: str | int) -> bool:
        """Say whether something was found already."""

    def once(self, *key: str | int, find: Callable[[], Any]) -> Any:
        """Return what was found under a key, or find it now; then it is on the disk."""


class Journalled:
    """Answers that are written down, and those that were written down before."""

    def __init__(self, answers: Answers, journal: Known) -> None:
        self._answers, self._journal = answers, journal

    @property
    def judging(self) -> Part:
        return self._answers.judging

    def costs(
        self, candidates: Sequence[Candidate], *, whole: bool = False
    ) -> list[Cost | Refused]:
        event = "cost as a whole" if whole else "cost"
        asked: dict[Key, Candidate] = {(event, each.name): each for each in candidates}
        answers = self._each(asked, lambda new: map(_said, self._answers.costs(new, whole=whole)))
        found = [answers[event, each.name] for each in candidates]
        return [Refused(one["refused"]) if "refused" in one else one for one in found]

    def train(self, trainings: Sequence[Training]) -> list[Right]:
        asked = {("trained", *each.key): each for each in trainings}
        answers = self._each(asked, lambda new: map(pack, self._answers.train(new)))
        return [unpack(answers["trained", *each.key]) for each in trainings]

    def model(self, training: Training) -> Path:
        return self._answers.model(training)

    def compile(self, trainings: Sequence[Training]) -> list[Record]:
        asked = {("compiled", *each.key): each for each in trainings}
        answers = self._each(asked, lambda new: self._answers.compile(new))
        return [answers["compiled", *each.key] for each in trainings]

    def noted(self, *key: str | int, value: Any) -> Any:
        """Write down what a search has decided; return what it had decided the first time."""
        return self._journal.once(*key, find=lambda: value)

    def _each(
        self, asked: Mapping[Key, Question], find: Callable[[list[Question]], Iterable[Any]]
    ) -> dict[Key, Any]:
        """Return answers by key, of which those that are not known are asked for at once."""
        new = {key: each for key, each in asked.items() if not self._journal.knows(*key)}
        found = iter(find(list(new.values())) if new else ())
        return {key: self._journal.once(*key, find=lambda: next(found)) for key in asked}


def _said(cost: Cost | Refused) -> Record:
    return {"refused": cost.reason} if isinstance(cost, Refused) else dict(cost)


def allowed_cost(cost: Cost | Refused) -> Cost:
    """Return the cost of a network without which nothing goes on.

    Raises:
        ModelError: the target refuses it.
    """
    if isinstance(cost, Refused):
        raise ModelError(f"the network is refused: {cost.reason}")
    return cost


def accepted(candidates: Sequence[Candidate], costs: Sequence[Cost | Refused]) -> list[Cost]:
    """Return the costs of networks without which nothing goes on.

    Raises:
        ModelError: the target refuses one of them.
    """
    found: list[Cost] = []
    for candidate, cost in zip(candidates, costs, strict=True):
        if isinstance(cost, Refused):
            raise ModelError(f"network {candidate.name} is refused: {cost.reason}")
        found.append(cost)
    return found


def pack(right: Right) -> Record:
    """Return on which examples a network is right, as JSON holds it."""
    packed = base64.b64encode(np.packbits(right).tobytes()).decode()
    return {"of": len(right), "accuracy": float(right.mean()), "right": packed}


def unpack(record: Record) -> Right:
    """Return on which examples a network is right, of what `pack` wrote."""
    packed = np.frombuffer(base64.b64decode(record["right"]), np.uint8)
    return np.unpackbits(packed, count=record["of"]).astype(np.bool_)
