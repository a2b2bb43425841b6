"""Choices for a kernel that was not measured, from the most similar one that was.

Similar kernels differ in sizes only: rows, channels, sides of the map. What else is part of a
shape, such as taps, strides, padding, activation and element type, decides which code is written,
and must be the same.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any

from mbv3c.tuning.database import Record, best

# The fields of shapes that are sizes.
SIZES = frozenset({"rows", "inputs", "outputs", "channels", "places", "squeezed", "size"})

# Farther than this in any size, a neighbour says nothing: it may fill other caches.
MOST_APART = 2.0

# A neighbour's choice that gained less there is as often worse here (docs/tuning.md has figures).
LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Likeness:
    """A kernel's key, cut in two.

    Attributes:
        structure: what must be the same.
        sizes: what may differ.
    """

    structure: str
    sizes: tuple[int, ...]

    def apart(self, other: "Likeness") -> float | None:
        """Return how far another is, in sums of log2; None if it is too far, or no likeness."""
        if self.structure != other.structure:
            return None
        steps = [abs(log2(a / b)) for a, b in zip(self.sizes, other.sizes, strict=True)]
        return sum(steps) if max(steps, default=0.0) <= log2(MOST_APART) else None


def likeness(key: str) -> Likeness:
    """Cut a key of `tasks.key_of` in two."""
    fields = list(_fields(json.loads(key), ""))
    sizes = tuple(value for path, value in fields if _is_size(path))
    return Likeness(json.dumps([one for one in fields if not _is_size(one[0])]), sizes)


@dataclass
class Neighbours:
    """The kernels that were measured, by what they have in common.

    Attributes:
        known: by structure: the likeness of each, and its kept record; None where the default
            choice is as good, or nearly so.
        keys: of all of them.
    """

    known: dict[str, list[tuple[Likeness, Record | None]]] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()

    def nearest(self, key: str) -> Record | None:
        """Return the kept record of the nearest kernel that was measured.

        None if the kernel itself was measured, if none is near, or if the nearest one gained
        little or nothing on its default choice.
        """
        if key in self.keys:
            return None
        mine = likeness(key)
        near = [
            (apart, at, record)
            for at, (other, record) in enumerate(self.known.get(mine.structure, ()))
            if (apart := mine.apart(other)) is not None
        ]
        return min(near, key=lambda one: one[:2])[2] if near else None


def neighbours(records: Sequence[Record]) -> Neighbours:
    """Return the kernels of some records of which more than the default choice was measured."""
    measured = Counter(record.key for record in records)
    kept = {
        key: record
        for key, record in best(records).items()
        if record.relative is not None and record.relative <= 1.0 - LEAST_GAIN
    }
    found = Neighbours(keys=frozenset(key for key, count in measured.items() if count > 1))
    for key in measured:
        if key in found.keys:
            one = likeness(key)
            found.known.setdefault(one.structure, []).append((one, kept.get(key)))
    return found


def _fields(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _fields(one, f"{path}{name}.")
        else:
            yield f"{path}{name}", one


def _is_size(path: str) -> bool:
    return path.rpartition(".")[2] in SIZES
