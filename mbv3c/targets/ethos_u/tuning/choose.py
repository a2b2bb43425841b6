"""A better choice for an NPU than a user's, from what `tune` keeps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.lowering.plan import NoChoices
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u.devices import (
    MEANS,
    Knobs,
    NpuOptions,
    NpuTarget,
    canonical,
    memories,
    sram_of,
)
from mbv3c.targets.ethos_u.manifest import BetterRecord
from mbv3c.targets.ethos_u.tuning.estimates import (
    FAILED,
    OK,
    Estimate,
    context_of,
    estimate,
    estimates_for,
    key_of,
    of_network,
)


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
        pinned: names of the knobs that stay as they are.
        target: the device.
        sram_bytes: what the network may take; None for any.
    """
    own = canonical(wanted, target)
    fitting = [
        choice
        for knobs, choice in known.items()
        if choice.outcome == OK
        and memories(knobs, target) == memories(own, target)
        and knobs.system_config == own.system_config
        and all(getattr(knobs, name) == getattr(own, name) for name in pinned)
        and (sram_bytes is None or choice.rank[1] <= sram_bytes)
    ]
    return min(fitting, key=lambda choice: choice.rank, default=None)


@dataclass(frozen=True)
class Better:
    """A choice that is better by vela's estimate than the one that a user asked for.

    Attributes:
        knobs: the choice.
        estimate: vela's estimate of the choice.
        default: vela's estimate of the user's own choice; `overshot` if that does not fit.
    """

    knobs: Knobs
    estimate: Estimate
    default: Estimate

    def record(self) -> BetterRecord:
        """Return what a manifest says: the estimates that decided."""
        return BetterRecord(
            self.estimate.cycles or 0,
            self.estimate.sram_bytes or 0,
            self.default.cycles or 0,
            self.default.sram_bytes or 0,
        )


@dataclass(frozen=True)
class VelaChoices(NoChoices):
    """The folders of tuning databases in which a better choice is looked for."""

    roots: tuple[Path, ...]


def better_choice(
    networks: Callable[[str], bytes],
    target: NpuTarget,
    options: NpuOptions,
    roots: Sequence[Path],
    report: Progress,
) -> Better | None:
    """Return a choice of the databases that beats a user's, and fits; None if there is none.

    A user's own choice is estimated, too, if that has not been done: nothing slower is taken.

    Args:
        networks: function that gives a TOSA file's bytes for a way to compute means.
        target: the device.
        options: what the user asked for.
        roots: the folders of the databases.
        report: function that is told which database cannot be used, and why.

    Raises:
        DatabaseError: a database is damaged.
        ToolError: vela failed on the user's own choice.
    """
    records = _usable(target, roots, report)
    if not records:
        return None
    keys = {mean: key_of(networks(mean)) for mean in MEANS}
    known = of_network(records, keys)
    wanted, budget = options.knobs, options.sram_bytes or sram_of(options.knobs, target)
    best = fastest(known, wanted, options.pinned, target, budget)
    if best is None:
        return None
    arena = wanted.arena_cache_size or options.sram_bytes
    own = canonical(replace(wanted, arena_cache_size=arena), target)
    mean = wanted.mean
    default = known.get(own) or estimate(networks(mean), keys[mean], best.network, target, own)
    if default.outcome == FAILED:
        raise ToolError(default.said or "vela failed")
    fits = default.outcome == OK and (budget is None or default.rank[1] <= budget)
    if fits and default.rank <= best.rank:
        return None
    # Modes of dedicated SRAM are one to vela; the name that the user gave stays.
    mode, system = wanted.memory_mode, wanted.system_config
    return Better(replace(best.chosen, memory_mode=mode, system_config=system), best, default)


def _usable(target: NpuTarget, roots: Iterable[Path], report: Progress) -> list[Estimate]:
    """Return the records for a device in the databases under some folders."""
    records: list[Estimate] = []
    for root in roots:
        database = estimates_for(root, target)
        known = database.context()
        if known is None:
            continue
        if known != context_of(target):
            report(
                f"warning: {database.folder} was made for {known}, and this is "
                f"{context_of(target)}: not used; tune again"
            )
            continue
        records += database.records()
    return records
