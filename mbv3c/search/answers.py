"""What a search asks: costs of networks, their accuracy after a training, and bundles of them.

The answers come from jobs, or in tests from plain functions. What was answered is in the search's
journal, and is not asked again.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from mbv3c.search.space import Candidate
from mbv3c.search.statistics import Right

Part = Literal["validation", "test"]
Cost = Mapping[str, float]
# One line of a journal.
Record = dict[str, Any]


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


class Answers(Protocol):
    """What knows, or finds out."""

    @property
    def judging(self) -> Part:
        """The images on which finalists are measured; those on which they were chosen flatter."""

    def costs(self, candidates: Sequence[Candidate], *, whole: bool = False) -> list[Cost]:
        """Return what networks take of each resource.

        `whole` asks for each network as a whole, and does not add up what is known of its layers.
        """

    def train(self, trainings: Sequence[Training]) -> list[Right]:
        """Train networks, and return on which images each is right."""

    def model(self, training: Training) -> Path:
        """Return the file of a trained network, ONNX."""

    def compile(self, trainings: Sequence[Training]) -> list[Record]:
        """Quantize and compile trained networks, and return what is known of the bundles."""


@runtime_checkable
class Records(Protocol):
    """A journal: what is in it, and what is added."""

    def read(self) -> Sequence[Record]:
        """Return all records, in their order."""

    def add(self, record: Record) -> None:
        """Append a record; when this returns it is on the disk."""


class Journalled:
    """Answers that are written down, and those that were written down before."""

    def __init__(self, answers: Answers, journal: Records) -> None:
        self._answers, self._journal = answers, journal
        self._known: dict[tuple[Any, ...], Record] = {}
        for record in journal.read():
            self._known[_key_of(record)] = record

    @property
    def judging(self) -> Part:
        return self._answers.judging

    def costs(self, candidates: Sequence[Candidate], *, whole: bool = False) -> list[Cost]:
        keys = [("cost", each.name, whole) for each in candidates]
        asked = self._unknown(dict(zip(keys, candidates, strict=True)))
        if asked:
            found = self._answers.costs(list(asked.values()), whole=whole)
            for (event, name, _), cost in zip(asked, found, strict=True):
                self._add({"event": event, "network": name, "whole": whole, "cost": dict(cost)})
        return [self._known[key]["cost"] for key in keys]

    def train(self, trainings: Sequence[Training]) -> list[Right]:
        keys = [("trained", *_named(each)) for each in trainings]
        asked = self._unknown(dict(zip(keys, trainings, strict=True)))
        if asked:
            found = self._answers.train(list(asked.values()))
            for key, right in zip(asked, found, strict=True):
                self._add({**_described(key), **pack(right)})
        return [unpack(self._known[key]) for key in keys]

    def model(self, training: Training) -> Path:
        return self._answers.model(training)

    def compile(self, trainings: Sequence[Training]) -> list[Record]:
        keys = [("compiled", *_named(each)) for each in trainings]
        asked = self._unknown(dict(zip(keys, trainings, strict=True)))
        if asked:
            found = self._answers.compile(list(asked.values()))
            for key, document in zip(asked, found, strict=True):
                self._add({**_described(key), "bundle": document})
        return [self._known[key]["bundle"] for key in keys]

    def note(self, record: Record) -> Record:
        """Write down what a search has decided; return what it had decided the first time."""
        key = _key_of(record)
        if key not in self._known:
            self._add(record)
        return self._known[key]

    def _unknown(self, asked: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], Any]:
        return {key: each for key, each in asked.items() if key not in self._known}

    def _add(self, record: Record) -> None:
        self._journal.add(record)
        self._known[_key_of(record)] = record


def _named(training: Training) -> tuple[Any, ...]:
    return (training.candidate.name, training.steps, training.seed, training.part)


def _described(key: tuple[Any, ...]) -> Record:
    return dict(zip(("event", "network", "steps", "seed", "part"), key, strict=True))


def _key_of(record: Record) -> tuple[Any, ...]:
    """Return what a record is about, without what it says of it."""
    keys = ("event", "network", "whole", "steps", "seed", "part", "round")
    return tuple(record[key] for key in keys if key in record)


def pack(right: Right) -> Record:
    """Return on which examples a network is right, as JSON holds it."""
    packed = base64.b64encode(np.packbits(right).tobytes()).decode()
    return {"of": len(right), "accuracy": float(right.mean()), "right": packed}


def unpack(record: Record) -> Right:
    """Return on which examples a network is right, of what `pack` wrote."""
    packed = np.frombuffer(base64.b64decode(record["right"]), np.uint8)
    return np.unpackbits(packed, count=record["of"]).astype(np.bool_)
