"""Tune for an Ethos-U: ask vela what every choice costs, and keep all its answers.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from mbv3c import __version__
from mbv3c.errors import Mbv3cError, ToolError
from mbv3c.targets import ethos_u
from mbv3c.targets.npu_knobs import ARENAS, Knobs, canonical, every_choice, memories
from mbv3c.targets.npu_table import NpuTarget
from mbv3c.tuning.database import Journal, folder_for

RUNNER = "estimated"

# How an estimate ended. "overshot": the arena asked for was not kept, which vela does not say.
OK, OVERSHOT, FAILED = "ok", "overshot", "failed"

_KIB = 1024

Report = Callable[[str], None]


class NothingEstimatedError(Mbv3cError):
    """Vela could estimate not one choice."""


@dataclass(frozen=True)
class Estimate:
    """What vela says of one choice; figures are None where it failed.

    Attributes:
        key: of the network as vela reads it, `key_of`.
        network: its name, for people.
        knobs: the choice, `Knobs.to_json`, in its canonical form.
        outcome: OK, OVERSHOT or FAILED.
        cycles: of one inference.
        milliseconds: the same at the clock of the system.
        sram_bytes, dram_bytes, flash_bytes: as in `ethos_u.Cost`.
        said: what was wrong, where it failed.
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
        target: `npu:DEVICE`.
        system_config: of the device, a section of vela.ini.
        vela: version of ethos-u-vela.
    """

    target: str
    system_config: str
    vela: str

    def __str__(self) -> str:
        return f"{self.target} ({self.system_config}, ethos-u-vela {self.vela}, in cycles)"


class Estimates(Journal[Estimate, VelaContext]):
    """The estimates for one device."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Estimate, VelaContext)


@dataclass(frozen=True)
class Explored:
    """What is known of a network.

    Attributes:
        known: every choice that was ever asked for, in the order of the walk.
        estimated: how many of them were asked for now.
        same: how many choices are the same to vela as another one.
        skipped: choices that cannot be better than another one, and why.
        stopped: why not all was walked; empty if it was.
    """

    known: dict[Knobs, Estimate]
    estimated: int
    same: int
    skipped: dict[Knobs, str] = field(default_factory=dict)
    stopped: str = ""


def estimates_for(root: Path, target: NpuTarget) -> Estimates:
    """Return the database of a device under the folder of all databases."""
    return Estimates(folder_for(root, target.name))


def context_of(target: NpuTarget) -> VelaContext:
    """Return what new estimates for a device have in common."""
    return VelaContext(target.name, target.system_config, metadata.version("ethos-u-vela"))


def key_of(tosa: bytes) -> str:
    """Return the text under which a network is remembered, once lowered: all that vela sees."""
    return hashlib.sha256(tosa).hexdigest()


def walk(target: NpuTarget, arenas: tuple[int, ...] = ARENAS) -> list[Knobs]:
    """Return the choices that vela can tell apart.

    The default is first, then those of the device's own memories, and large arenas before small
    ones, which they may make needless.
    """
    found = dict.fromkeys(canonical(one, target) for one in every_choice(target, arenas))
    default, *others = found
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
    for other, estimate in known.items():
        larger = other.arena_cache_size
        same = replace(other, arena_cache_size=arena) == knobs
        if not same or (larger is not None and larger <= arena) or estimate.sram_bytes is None:
            continue
        used, limit = kib(estimate.sram_bytes), "no limit" if larger is None else kib(larger)
        if estimate.sram_bytes <= arena:
            return f"{kib(arena)} is no limit: with {limit} the network took {used}"
        if estimate.outcome == OVERSHOT:
            return f"{kib(arena)} cannot be kept: asked for {limit}, vela took {used}"
    return ""


def explore(
    networks: Mapping[str, bytes],
    name: str,
    target: NpuTarget,
    database: Estimates,
    *,
    arenas: tuple[int, ...] = ARENAS,
    trials: int | None = None,
    seconds: float | None = None,
    report: Report,
) -> Explored:
    """Estimate every choice that is not known yet; each is on the disk before the next one.

    Args:
        networks: the bytes of the TOSA file by the way in which means are computed.
        name: of the network, for people.
        target: the device.
        database: where estimates are and go; the caller holds `only_one`.
        arenas: sizes to try, in bytes.
        trials: estimates to make at most.
        seconds: time after which no other one begins.
        report: told what happens, in words.

    Raises:
        NothingEstimatedError: vela failed on every choice.
        DatabaseError: the database is damaged, or for something else.
    """
    begin = time.monotonic()
    keys = {mean: key_of(tosa) for mean, tosa in networks.items()}
    records = database.open(context_of(target), _run())
    known = of_network(records, keys)
    choices = [one for one in walk(target, arenas) if one.mean in keys]
    every = [one for one in every_choice(target, arenas) if one.mean in keys]
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
        known[knobs] = _estimate(networks[knobs.mean], keys[knobs.mean], name, target, knobs)
        database.append([known[knobs]])
        estimated += 1
        report(f"{number} of {len(choices)}: {describe(knobs)}: {said(known[knobs])}")
    failed = [one.said for one in known.values() if one.outcome == FAILED]
    if known and len(failed) == len(known):
        raise NothingEstimatedError(f"vela failed on every choice; the first time: {failed[0]}")
    ordered = {one: known[one] for one in choices if one in known}
    return Explored(ordered | known, estimated, len(every) - len(choices), skipped, stopped)


def of_network(records: Iterable[Estimate], keys: Mapping[str, str]) -> dict[Knobs, Estimate]:
    """Return the estimates of one network, whose keys are given by the way of its means."""
    return {one.chosen: one for one in records if keys.get(one.chosen.mean) == one.key}


def front(estimates: Iterable[Estimate]) -> list[Estimate]:
    """Return those that no other one beats in cycles or SRAM without losing in the other.

    Of equals the first is taken. What is on the front is in order of SRAM, the least first.
    """
    best: list[Estimate] = []
    valid = (one for one in estimates if one.outcome == OK)
    for one in sorted(valid, key=lambda one: one.rank[::-1]):
        if not best or one.rank[0] < best[-1].rank[0]:
            best.append(one)
    return best


def fastest(
    known: Mapping[Knobs, Estimate],
    wanted: Knobs,
    pinned: Sequence[str],
    target: NpuTarget,
    sram_bytes: int | None,
) -> Estimate | None:
    """Return the fastest choice that a user's wishes leave, of equals that with least SRAM.

    The memories stay those of `wanted`: they are the board's, and no choice.

    Args:
        known: what was estimated.
        wanted: the user's knobs.
        pinned: names of those that stay as they are.
        target: the device.
        sram_bytes: what the network may take; None for any.
    """
    own = canonical(wanted, target)
    fitting = [
        one
        for knobs, one in known.items()
        if one.outcome == OK
        and memories(knobs, target) == memories(own, target)
        and knobs.system_config == own.system_config
        and all(getattr(knobs, name) == getattr(own, name) for name in pinned)
        and (sram_bytes is None or one.rank[1] <= sram_bytes)
    ]
    return min(fitting, key=lambda one: one.rank, default=None)


def status_lines(database: Estimates) -> list[str]:
    """Say what is in a database.

    Raises:
        DatabaseError: it is damaged.
    """
    context, records = database.context(), database.records()
    if context is None:
        return [f"{database.folder}: nothing was estimated"]
    names: dict[str, set[str]] = {}
    for one in records:
        names.setdefault(one.network, set()).add(one.key)
    lines = [f"{database.folder}: {context}, {len(records)} choices {ethos_u.ESTIMATED}"]
    for name, keys in names.items():
        own = [one for one in records if one.key in keys]
        outcomes = Counter(one.outcome for one in own)
        counted = ", ".join(f"{count} {kind}" for kind, count in outcomes.items())
        lines.append(f"{name}, in {len(keys)} forms: {len(own)} choices ({counted})")
    return lines


def describe(knobs: Knobs) -> str:
    """Say a choice in few words."""
    parts = [knobs.optimise.lower(), knobs.mean]
    if knobs.arena_cache_size is not None:
        parts.append(f"arena {kib(knobs.arena_cache_size)}")
    return ", ".join([*parts, *filter(None, (knobs.memory_mode, knobs.system_config))])


def said(estimate: Estimate) -> str:
    """Say in few words what vela answered."""
    if estimate.cycles is None or estimate.sram_bytes is None:
        return f"failed: {estimate.said}"
    over = ", more than the arena" if estimate.outcome == OVERSHOT else ""
    return f"{estimate.cycles:,} cycles, SRAM {kib(estimate.sram_bytes)}{over}"


def kib(size: int) -> str:
    """Say a size."""
    return f"{size / _KIB:.0f} KiB"


def _estimate(tosa: bytes, key: str, name: str, target: NpuTarget, knobs: Knobs) -> Estimate:
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


def _run() -> dict[str, Any]:
    """Say who writes, for people."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "mbv3c": __version__,
        "runner": RUNNER,
    }
