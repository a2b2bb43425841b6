"""Measured choices for `compile`: the user's own, those that are shipped, or the most similar.

A kernel that was not measured takes the choices of the most similar one that was.

Similar kernels differ in sizes only: rows, channels, sides of the map. What else is part of a
shape, such as taps, strides, padding, activation and element type, decides which code is written,
and must be equal.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from math import log2
from pathlib import Path
from typing import Any

from mbv3c.lowering.plan import TRANSFERRED, TUNED, Choices, Plan
from mbv3c.manifest import TunedKernel
from mbv3c.tuning.database import Context, Database, Record, best, folder_for, key_of

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
        structure: fields that must be equal.
        sizes: sizes that may differ.
    """

    structure: str
    sizes: tuple[int, ...]

    def apart(self, other: "Likeness") -> float | None:
        """Return how far another is, in sums of log2; None if it is too far, or no likeness."""
        if self.structure != other.structure or min(*self.sizes, *other.sizes, 1) < 1:
            return None
        steps = [abs(log2(a / b)) for a, b in zip(self.sizes, other.sizes, strict=True)]
        return sum(steps) if max(steps, default=0.0) <= log2(MOST_APART) else None


def likeness(key: str) -> Likeness:
    """Cut a key of `tasks.key_of` in two."""
    fields = list(_fields(json.loads(key), ""))
    sizes = tuple(value for path, value in fields if _is_size(path))
    return Likeness(json.dumps([pair for pair in fields if not _is_size(pair[0])]), sizes)


@dataclass
class Neighbours:
    """The kernels that were measured, by what they have in common.

    Attributes:
        known: likeness and kept record of each kernel, by structure; the record is None where the
            default choice is as good, or nearly so.
        keys: keys of all kernels.
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
        return min(near, key=lambda kernel: kernel[:2])[2] if near else None


def neighbours(records: Sequence[Record]) -> Neighbours:
    """Return the kernels of some records of which more than the default choice was measured."""
    measured = Counter(record.key for record in records)
    kept = {
        key: record
        for key, record in best(records).items()
        if record.relative is not None and record.relative <= 1.0 - LEAST_GAIN
    }
    kernels = Neighbours(keys=frozenset(key for key, count in measured.items() if count > 1))
    for key in measured:
        if key in kernels.keys:
            cut = likeness(key)
            kernels.known.setdefault(cut.structure, []).append((cut, kept.get(key)))
    return kernels


def _fields(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _fields(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


def _is_size(path: str) -> bool:
    return path.rpartition(".")[2] in SIZES


OWN = Path("tune_logs")


@dataclass(frozen=True)
class MeasuredOn:
    """What measurements must share to be used together.

    Attributes:
        device: FAMILY:DEVICE under which they are kept.
        kernels: the version of the kernels.
    """

    device: str
    kernels: int

    def context(self, unit: str) -> Context:
        """Return the context of records in a unit."""
        return Context(self.device, self.kernels, metadata.version("apache-tvm"), unit)


@dataclass(frozen=True)
class Recorded(Choices):
    """Choices that a bundle's manifest lists, by key."""

    tuned: dict[str, dict[str, Any]]
    transferred: dict[str, dict[str, Any]]

    @property
    def knobs(self) -> dict[str, dict[str, Any]]:
        """All of them."""
        return self.tuned | self.transferred

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs of a kernel of the bundle, if they were measured for it."""
        return self.tuned.get(key_of(kind, shape))

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs of a kernel of the bundle, if they are a similar one's."""
        return self.transferred.get(key_of(kind, shape))


def recorded(listed: Sequence[TunedKernel]) -> Recorded:
    """Return the choices that a bundle's manifest lists under `tuned_kernels`."""
    tuned, transferred = (
        {kernel.key: kernel.knobs for kernel in listed if kernel.origin == origin}
        for origin in (TUNED, TRANSFERRED)
    )
    return Recorded(tuned, transferred)


def tuned_kernels(plan: Plan) -> tuple[TunedKernel, ...]:
    """Return what a manifest lists under `tuned_kernels`: each kernel's key, knobs and origin."""
    tuned = {
        key_of(step.kind, step.shape): (step.knobs, step.origin)
        for step in plan.steps
        if step.origin in (TUNED, TRANSFERRED)
    }
    return tuple(TunedKernel(key, knobs, origin) for key, (knobs, origin) in tuned.items())


def warnings_of(plan: Plan) -> list[str]:
    """Say which measured choices were not used, and why."""
    return [
        f"{step.operator}, one of TVM's operators, is not as it was tuned: {step.warning}; tune "
        "again"
        for step in plan.steps
        if step.warning
    ]


@dataclass
class MeasuredChoices(Choices):
    """The best choices of some records.

    Attributes:
        records: by key.
        neighbours: what is known for kernels that are not among them.
        warnings: why databases that are there were not used.
        elsewhere: what was measured on another processor only, by key, and what to call that one.
    """

    records: dict[str, Record] = field(default_factory=dict)
    neighbours: Neighbours = field(default_factory=Neighbours)
    warnings: list[str] = field(default_factory=list)
    elsewhere: tuple[frozenset[str], str] = (frozenset(), "")

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs that were measured to be best for a kernel."""
        record = self.records.get(key_of(kind, shape))
        return record.knobs if record is not None else None

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the knobs that were measured to be best for the most similar kernel."""
        record = self.neighbours.nearest(key_of(kind, shape))
        return record.knobs if record is not None else None


def looked_in(roots: Sequence[Path], devices: Sequence[str]) -> str:
    """Say where tuning of devices is looked for, and whether there is any."""
    places = []
    for root in roots:
        there = [device for device in devices if folder_for(root, device).is_dir()]
        if root == shipped():
            places += ["what comes with mbv3c"] if there else []
            continue
        where = f"{folder_for(root, devices[0])}{' of this folder' if root == OWN else ''}"
        places.append(where if there else f"{where} (not there)")
    return f"tuning is taken from {', then '.join(places)}"


def from_elsewhere(plan: Plan, choices: Choices) -> list[str]:
    """Say how many kernels of a network are as another processor's were tuned, if any are."""
    if not isinstance(choices, MeasuredChoices):
        return []
    keys, name = choices.elsewhere
    tuned = [step for step in plan.steps if step.origin == TUNED and step.shape is not None]
    count = sum(key_of(step.kind, step.shape) in keys for step in tuned)
    kernels = (
        "1 kernel of this network is" if count == 1 else f"{count} kernels of this network are"
    )
    return [f"{kernels} as tuned on {name}, not on this one"] if count else []


def best_choices(records: Sequence[Record]) -> MeasuredChoices:
    """Return the best choices of some records, and of those what serves similar kernels."""
    return MeasuredChoices(best(records), neighbours(records))


def shipped() -> Path:
    """Return the folder of the databases that come with mbv3c."""
    return Path(str(resources.files("mbv3c") / "tune_logs"))


def measured(
    origin: MeasuredOn,
    roots: Sequence[Path],
    new: Sequence[Record] = (),
    wider: tuple[MeasuredOn, str] | None = None,
) -> MeasuredChoices:
    """Return the best choices for a device in the databases under some folders.

    A kernel that was measured in an earlier folder is not looked for in those behind it: one's own
    measurements come before what is shipped, in whatever unit that is. A database of other kernels
    or of another TVM is left out, with a warning.

    Args:
        origin: the device and its kernels.
        roots: the folders, the most trusted first.
        new: records that count as if they were in the first folder.
        wider: a device with kernels of equal instructions, for kernels that were not measured on
            `origin`, and what to call that device in a note.

    Raises:
        DatabaseError: a database is damaged.
    """
    warnings: list[str] = []
    records = [*new, *_records(origin, roots, warnings)]
    elsewhere = frozenset[str](), ""
    if wider is not None:
        other, name = wider
        own = {record.key for record in records}
        others = [record for record in _records(other, roots, warnings) if record.key not in own]
        elsewhere = frozenset(record.key for record in others), name
        records += others
    choices = best_choices(records)
    choices.warnings, choices.elsewhere = warnings, elsewhere
    return choices


def _records(origin: MeasuredOn, roots: Sequence[Path], warnings: list[str]) -> list[Record]:
    """Return what was measured on a device, and say which databases cannot be used."""
    records: list[Record] = []
    for root in roots:
        database = Database(folder_for(root, origin.device))
        known = database.context()
        if known is None:
            continue
        if known != origin.context(known.unit):
            warnings.append(
                f"{database.folder} was measured with kernels {known.kernels} and apache-tvm "
                f"{known.tvm} for {known.target}: not used; tune again"
            )
            continue
        before = {record.key for record in records}
        records += [record for record in database.records() if record.key not in before]
    return records
