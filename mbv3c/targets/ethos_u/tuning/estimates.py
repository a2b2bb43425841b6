"""Vela's estimates for networks, and the database that keeps them."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mbv3c.errors import ToolError
from mbv3c.targets.ethos_u import vela as ethos_u
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.options import Knobs
from mbv3c.tuning.database import RecordLog, folder_for

# How an estimate ended. "overshot": the arena asked for was not kept, which vela does not say.
OK, OVERSHOT, FAILED = "ok", "overshot", "failed"

_KIB = 1024


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
    """Return the estimates of one network, whose keys are given by the way of its means."""
    return {one.chosen: one for one in records if keys.get(one.chosen.mean) == one.key}


def estimate(tosa: bytes, key: str, name: str, target: NpuTarget, knobs: Knobs) -> Estimate:
    """Ask vela what a choice costs; where it fails, what it said is the answer."""
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
