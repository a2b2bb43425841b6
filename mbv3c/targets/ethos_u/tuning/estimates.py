"""Vela's estimates for networks, and the database that keeps them.

There is nothing to measure: vela estimates cycles and memory of a whole network, and gives the
same answer each time. So each choice is asked for once, those that cannot differ from another not
at all, and what is left of them is the front of cycles against SRAM.
"""

import datetime
import hashlib
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.targets.ethos_u import vela as ethos_u
from mbv3c.targets.ethos_u.devices import ARENAS, Knobs, NpuTarget, canonical, every_choice
from mbv3c.tuning.database import RecordLog, folder_for
from mbv3c.version import __version__

# How an estimate ended. "overshot": the arena asked for was not kept, which vela does not say.
OK, OVERSHOT, FAILED = "ok", "overshot", "failed"

_KIB = 1024


@dataclass(frozen=True)
class Estimate:
    """What vela says of one choice; figures are None where it failed.

    Attributes:
        key: name of the network as vela reads it, by `key_of`.
        network: name of the network, for people.
        knobs: the choice, by `Knobs.to_json`, in its canonical form.
        outcome: OK, OVERSHOT or FAILED.
        cycles: cycles of an inference.
        milliseconds: time of an inference at the clock of the system.
        sram_bytes: bytes in SRAM, as in `vela.Cost`.
        dram_bytes: bytes in DRAM, as in `vela.Cost`.
        flash_bytes: bytes in flash, as in `vela.Cost`.
        said: vela's message, where it failed.
    """

    key: str
    network: str
    knobs: dict[str, Any]
    outcome: str
    cycles: int | None = None
    milliseconds: float | None = None
    sram_bytes: int | None = None
    dram_bytes: int | None = None
    flash_bytes: int | None = None
    said: str | None = None

    @property
    def chosen(self) -> Knobs:
        return Knobs(**self.knobs)

    @property
    def rank(self) -> tuple[float, float]:
        """Cycles, then bytes of SRAM: the less, the better; last what failed."""
        if self.cycles is None or self.sram_bytes is None:
            return math.inf, math.inf
        return self.cycles, self.sram_bytes


@dataclass(frozen=True)
class VelaContext:
    """What estimates must have in common to be used together.

    Attributes:
        target: name of the target, `npu:DEVICE`.
        system_config: section of vela.ini that describes the device.
        vela: version of ethos-u-vela.
    """

    target: str
    system_config: str
    vela: str

    def __str__(self) -> str:
        return f"{self.target} ({self.system_config}, ethos-u-vela {self.vela}, in cycles)"


class Estimates(RecordLog[Estimate, VelaContext]):
    """The estimates for one device."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Estimate, VelaContext)


def estimates_for(root: Path, target: NpuTarget) -> Estimates:
    """Return the database of a device under the folder of all databases."""
    return Estimates(folder_for(root, target.name))


def context_of(target: NpuTarget) -> VelaContext:
    """Return what new estimates for a device have in common."""
    return VelaContext(target.name, target.system_config, metadata.version("ethos-u-vela"))


def key_of(tosa: bytes) -> str:
    """Return the text under which a network is remembered, once lowered: all that vela sees."""
    return hashlib.sha256(tosa).hexdigest()


def of_network(records: Iterable[Estimate], keys: Mapping[str, str]) -> dict[Knobs, Estimate]:
    """Return the estimates of a network, whose keys are given by the way of its means."""
    return {
        record.chosen: record for record in records if keys.get(record.chosen.mean) == record.key
    }


def estimate(tosa: bytes, key: str, name: str, target: NpuTarget, knobs: Knobs) -> Estimate:
    """Ask vela what a choice costs; where vela fails, the estimate holds its message."""
    try:
        cost, kept = ethos_u.estimate(tosa, target, knobs)
    except ToolError as error:
        return Estimate(key, name, knobs.to_json(), FAILED, said=str(error))
    return Estimate(
        key,
        name,
        knobs.to_json(),
        OK if kept else OVERSHOT,
        cost.cycles,
        cost.milliseconds,
        cost.sram_bytes,
        cost.dram_bytes,
        cost.flash_bytes,
    )


def status_lines(database: Estimates) -> list[str]:
    """Say what is in a database.

    Raises:
        DatabaseError: it is damaged.
    """
    context, records = database.context(), database.records()
    if context is None:
        return [f"{database.folder}: nothing was estimated"]
    names: dict[str, set[str]] = {}
    for record in records:
        names.setdefault(record.network, set()).add(record.key)
    lines = [f"{database.folder}: {context}, {len(records)} choices {ethos_u.ESTIMATED}"]
    for name, keys in names.items():
        own = [record for record in records if record.key in keys]
        outcomes = Counter(record.outcome for record in own)
        counted = ", ".join(f"{count} {kind}" for kind, count in outcomes.items())
        lines.append(f"{name}, in {len(keys)} forms: {len(own)} choices ({counted})")
    return lines


def describe(knobs: Knobs) -> str:
    """Say a choice in few words."""
    memories = filter(None, (knobs.memory_mode, knobs.system_config))
    return ", ".join([describe_in_memories(knobs), *memories])


def describe_in_memories(knobs: Knobs) -> str:
    """Say a choice in few words, where its memories are known."""
    arena = knobs.arena_cache_size
    parts = [knobs.optimise.lower(), knobs.mean]
    return ", ".join([*parts, *([f"arena {kib(arena)}"] if arena is not None else [])])


def outcome_of(estimate: Estimate) -> str:
    """Say in few words what vela answered."""
    if estimate.cycles is None or estimate.sram_bytes is None:
        return f"failed: {estimate.said}"
    over = ", more than the arena" if estimate.outcome == OVERSHOT else ""
    return f"{estimate.cycles:,} cycles, SRAM {kib(estimate.sram_bytes)}{over}"


def kib(size: int) -> str:
    """Say a size."""
    return f"{size / _KIB:.0f} KiB"


RUNNER = "estimated"

Report = Callable[[str], None]


class NothingEstimatedError(Mbv3cError):
    """Vela could estimate not one choice."""


@dataclass(frozen=True)
class Lowered:
    """A network as vela reads it.

    Attributes:
        name: its name, for people.
        forms: the bytes of the TOSA file by the way in which means are computed.
    """

    name: str
    forms: Mapping[str, bytes]


class Asker(Protocol):
    """What asks vela elsewhere."""

    def prepare(self, network: Lowered, choices: Iterator[Knobs]) -> None:
        """Be told which choices are asked for next; it takes of them what it can do at once.

        Raises:
            Mbv3cError: nothing can be asked any more.
        """

    def estimate(self, network: Lowered, knobs: Knobs) -> Estimate:
        """Return what `estimate` returns.

        Raises:
            Mbv3cError: nothing can be asked any more.
        """


@dataclass(frozen=True)
class Explored:
    """What is known of a network.

    Attributes:
        known: every choice that was ever asked for, in the order of the walk.
        estimated: how many of them were asked for now.
        same: how many choices are equal to another one for vela.
        skipped: choices that cannot be better than another one, and why.
        stopped: why not all was walked; empty if it was.
    """

    known: dict[Knobs, Estimate]
    estimated: int
    same: int
    skipped: dict[Knobs, str] = field(default_factory=dict)
    stopped: str = ""


def walk(target: NpuTarget, arenas: tuple[int, ...] = ARENAS) -> list[Knobs]:
    """Return the choices that vela can tell apart.

    The default is first, then those of the device's own memories, and large arenas before small
    ones, which they may make needless.
    """
    choices = dict.fromkeys(canonical(choice, target) for choice in every_choice(target, arenas))
    default, *others = choices
    modes = (None, *target.memory_modes)

    def order(knobs: Knobs) -> tuple[int, bool, float]:
        arena = knobs.arena_cache_size
        return modes.index(knobs.memory_mode), arena is not None, -(arena or math.inf)

    return [default, *sorted(others, key=order)]


def needless(knobs: Knobs, known: Mapping[Knobs, Estimate]) -> str:
    """Say why a choice cannot be better than one of those that are known; "" if it may be."""
    arena = knobs.arena_cache_size
    if arena is None:
        return ""
    for other, took in known.items():
        larger = other.arena_cache_size
        same = replace(other, arena_cache_size=arena) == knobs
        if not same or (larger is not None and larger <= arena) or took.sram_bytes is None:
            continue
        used, limit = kib(took.sram_bytes), "no limit" if larger is None else kib(larger)
        if took.sram_bytes <= arena:
            return f"{kib(arena)} is no limit: with {limit} the network took {used}"
        if took.outcome == OVERSHOT:
            return f"{kib(arena)} cannot be kept: asked for {limit}, vela took {used}"
    return ""


def certain(
    choices: Sequence[Knobs], known: Mapping[Knobs, Estimate], most: int | None
) -> Iterator[Knobs]:
    """Yield the choices that are asked for next, whatever vela says of those before.

    Left out are those which an estimate before may make needless.

    Args:
        choices: those that are left of the walk.
        known: what is known.
        most: estimates to make at most; None for any number.
    """
    before: set[Knobs] = set()  # without their arenas
    for knobs in choices:
        if most is not None and len(before) >= most:
            return
        if knobs in known or needless(knobs, known):
            continue
        chain = replace(knobs, arena_cache_size=None)
        if chain not in before:
            before.add(chain)
            yield knobs
        elif most is not None:
            most -= 1


def explore(
    network: Lowered,
    target: NpuTarget,
    database: Estimates,
    *,
    arenas: tuple[int, ...] = ARENAS,
    trials: int | None = None,
    seconds: float | None = None,
    report: Report,
    elsewhere: Asker | None = None,
) -> Explored:
    """Estimate every choice that is not known yet; each is on the disk before the next one.

    Args:
        network: the network.
        target: the device.
        database: where estimates are and go; the caller holds `only_one`.
        arenas: sizes to try, in bytes.
        trials: estimates to make at most.
        seconds: time after which no other one begins.
        report: function that is told what happens, in words.
        elsewhere: what asks vela, if this process does not.

    Raises:
        NothingEstimatedError: vela failed on every choice.
        DatabaseError: the database is damaged, or for something else.
    """
    begin = time.monotonic()
    keys = {mean: key_of(tosa) for mean, tosa in network.forms.items()}
    records = database.open(context_of(target), _run())
    known = of_network(records, keys)
    choices = [knobs for knobs in walk(target, arenas) if knobs.mean in keys]
    every = [knobs for knobs in every_choice(target, arenas) if knobs.mean in keys]
    skipped: dict[Knobs, str] = {}
    estimated, stopped = 0, ""
    for number, knobs in enumerate(choices, 1):
        if knobs in known:
            continue
        if reason := needless(knobs, known):
            skipped[knobs] = reason
            continue
        if estimated == trials:
            stopped = f"--trials {trials}"
            break
        if seconds is not None and time.monotonic() - begin >= seconds:
            stopped = f"--minutes {seconds / 60:g}"
            break
        if elsewhere is None:
            tosa, key = network.forms[knobs.mean], keys[knobs.mean]
            known[knobs] = estimate(tosa, key, network.name, target, knobs)
        else:
            left = None if trials is None else trials - estimated
            elsewhere.prepare(network, certain(choices[number - 1 :], known, left))
            known[knobs] = elsewhere.estimate(network, knobs)
        database.append([known[knobs]])
        estimated += 1
        report(f"{number} of {len(choices)}: {describe(knobs)}: {outcome_of(known[knobs])}")
    failed = [made.said for made in known.values() if made.outcome == FAILED]
    if known and len(failed) == len(known):
        raise NothingEstimatedError(f"vela failed on every choice; the first time: {failed[0]}")
    ordered = {knobs: known[knobs] for knobs in choices if knobs in known}
    return Explored(ordered | known, estimated, len(every) - len(choices), skipped, stopped)


def front(estimates: Iterable[Estimate]) -> list[Estimate]:
    """Return those that no other one beats in cycles or SRAM without losing in the other.

    Of equals the first is taken. What is on the front is in order of SRAM, the least first.
    """
    best: list[Estimate] = []
    valid = (choice for choice in estimates if choice.outcome == OK)
    for choice in sorted(valid, key=lambda choice: choice.rank[::-1]):
        if not best or choice.rank[0] < best[-1].rank[0]:
            best.append(choice)
    return best


def _run() -> dict[str, Any]:
    """Say who writes, for people."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "mbv3c": __version__,
        "runner": RUNNER,
    }
