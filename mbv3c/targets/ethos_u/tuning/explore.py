"""Tune for an Ethos-U: ask vela what every choice costs, and keep all its answers.

There is nothing to measure: vela estimates cycles and memory of a whole network, and gives the
same answer each time. So each choice is asked for once, those that cannot differ from another not
at all, and what is left of them is the front of cycles against SRAM.
"""

import datetime
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mbv3c import __version__
from mbv3c.errors import Mbv3cError
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.options import ARENAS, Knobs, canonical, every_choice
from mbv3c.targets.ethos_u.tuning.estimates import (
    FAILED,
    OK,
    OVERSHOT,
    Estimate,
    Estimates,
    context_of,
    describe,
    estimate,
    key_of,
    kib,
    of_network,
    said,
)

RUNNER = "estimated"

Report = Callable[[str], None]


class NothingEstimatedError(Mbv3cError):
    """Vela could estimate not one choice."""


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
    for other, one in known.items():
        larger = other.arena_cache_size
        same = replace(other, arena_cache_size=arena) == knobs
        if not same or (larger is not None and larger <= arena) or one.sram_bytes is None:
            continue
        used, limit = kib(one.sram_bytes), "no limit" if larger is None else kib(larger)
        if one.sram_bytes <= arena:
            return f"{kib(arena)} is no limit: with {limit} the network took {used}"
        if one.outcome == OVERSHOT:
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
        known[knobs] = estimate(networks[knobs.mean], keys[knobs.mean], name, target, knobs)
        database.append([known[knobs]])
        estimated += 1
        report(f"{number} of {len(choices)}: {describe(knobs)}: {said(known[knobs])}")
    failed = [one.said for one in known.values() if one.outcome == FAILED]
    if known and len(failed) == len(known):
        raise NothingEstimatedError(f"vela failed on every choice; the first time: {failed[0]}")
    ordered = {one: known[one] for one in choices if one in known}
    return Explored(ordered | known, estimated, len(every) - len(choices), skipped, stopped)


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


def _run() -> dict[str, Any]:
    """Say who writes, for people."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "mbv3c": __version__,
        "runner": RUNNER,
    }
