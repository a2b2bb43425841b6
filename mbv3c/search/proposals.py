"""Proposals: for each site of a network the widest cut that saves enough."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, inf, isfinite

import onnx

from mbv3c.search.answers import Refused, allowed_cost
from mbv3c.search.channels import Site
from mbv3c.search.prune import Cutter

# What networks cost, by the keys of resources, or why the target refuses one; asked as a whole, or
# added from known layers.
Costs = Callable[[Sequence[onnx.ModelProto], bool], Sequence[Mapping[str, float] | Refused]]

_BY_LINE = 3  # guesses along a line; from then on every other one halves what is left


@dataclass(frozen=True)
class Proposal:
    """A cut of one site.

    Attributes:
        site: the site, with the channels that it has.
        count: the channels that it keeps.
        cost: what the network costs then.
    """

    site: Site
    count: int
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Wanted:
    """What a proposal must do.

    Attributes:
        resource: key of the resource that it saves.
        now: what the network costs uncut.
        saving: how much of the resource it saves at least.
        most: what it may take of other resources, by key.
        grain: channel counts are multiples of this.
        allowed: says whether a network may be proposed at all.
    """

    resource: str
    now: Mapping[str, float]
    saving: float
    most: Mapping[str, float]
    grain: int
    allowed: Callable[[onnx.ModelProto], bool]

    def saved(self, cost: Mapping[str, float]) -> float:
        """Return how much of the resource a network saves."""
        return self.now[self.resource] - cost[self.resource]

    def enough(self, cost: Mapping[str, float]) -> bool:
        """Say whether a network saves enough, and takes no more of anything else."""
        kept = all(cost[key] <= max(limit, self.now[key]) for key, limit in self.most.items())
        return kept and self.saved(cost) >= self.saving


@dataclass
class _Hunt:
    """The search for the widest cut of a site.

    Attributes:
        site: the site.
        counts: what it could keep, the widest first.
        narrow: index of the widest count that is known to save enough.
        wide: index of the narrowest one before it that is known not to; -1 for the uncut site.
        rounds: guesses so far.
    """

    site: Site
    counts: list[int]
    narrow: int
    wide: int = -1
    rounds: int = 0

    def guess(self, saved: Mapping[int, float], wanted: float) -> int | None:
        """Return the index to ask for next; None when no count is left between.

        Args:
            saved: savings that are known, by index.
            wanted: the saving that is wanted.
        """
        left = self.narrow - self.wide
        if left <= 1:
            return None
        self.rounds += 1
        if self.rounds > _BY_LINE and self.rounds % 2:
            return self.wide + left // 2
        low, high = saved.get(self.wide, 0.0), saved[self.narrow]
        share = (wanted - low) / (high - low) if high > low and isfinite(low) else 0.5
        return min(max(self.wide + ceil(share * left), self.wide + 1), self.narrow - 1)


@dataclass
class Proposing:
    """Asks for costs of cuts in batches, each once.

    Attributes:
        model: the network.
        now: what it costs, asked as a whole.
        costs: what networks cost.
        asked: how many cuts were asked for.
        refused: cuts that the target refuses: the site, the channels that it would keep, and why.
    """

    model: onnx.ModelProto
    now: Mapping[str, float]
    costs: Costs
    asked: int = 0
    refused: list[tuple[Site, int, str]] = field(default_factory=list)
    _uncut: Mapping[str, float] | None = None
    _known: dict[tuple[str, int], Mapping[str, float]] = field(default_factory=dict)

    @cached_property
    def cutter(self) -> Cutter:
        """Cuts the network."""
        return Cutter(self.model)

    def propose(self, sites: Iterable[Site], wanted: Wanted) -> list[Proposal]:
        """Return for each site the widest cut that saves enough, in the order of the sites.

        Costs need not fall with the channels: what is returned was asked for itself, and one count
        beyond the one that does not save enough is tried, too. Sites that cannot save enough by
        themselves are left out.
        """
        hunts = [
            _Hunt(site, counts, len(counts) - 1)
            for site in sites
            if (counts := _counts(site.channels, wanted.grain))
        ]
        hunts = self._able(hunts, wanted)
        while True:
            guesses = [
                (hunt, hunt.guess(self._saved(hunt, wanted), wanted.saving)) for hunt in hunts
            ]
            open_ = [(hunt, index) for hunt, index in guesses if index is not None]
            if not open_:
                break
            self._ask((hunt.site, hunt.counts[index]) for hunt, index in open_)
            for hunt, index in open_:
                if wanted.enough(self._cost(hunt, index)):
                    hunt.narrow = index
                else:
                    hunt.wide = index
        beyond = [hunt for hunt in hunts if hunt.wide >= 1]
        self._ask((hunt.site, hunt.counts[hunt.wide - 1]) for hunt in beyond)
        for hunt in beyond:
            if wanted.enough(self._cost(hunt, hunt.wide - 1)):
                hunt.narrow = hunt.wide - 1
        found = (self._widest_allowed(hunt, wanted) for hunt in hunts)
        return [proposal for proposal in found if proposal is not None]

    def _able(self, hunts: list[_Hunt], wanted: Wanted) -> list[_Hunt]:
        """Return the hunts whose narrowest cut saves enough, or the one before it."""
        self._ask((hunt.site, hunt.counts[-1]) for hunt in hunts)
        failing = [hunt for hunt in hunts if not wanted.enough(self._cost(hunt, hunt.narrow))]
        again = [hunt for hunt in failing if hunt.narrow]
        self._ask((hunt.site, hunt.counts[-2]) for hunt in again)
        for hunt in again:
            hunt.narrow -= 1
        return [hunt for hunt in hunts if wanted.enough(self._cost(hunt, hunt.narrow))]

    def _widest_allowed(self, hunt: _Hunt, wanted: Wanted) -> Proposal | None:
        for count in hunt.counts[hunt.narrow :]:
            self._ask([(hunt.site, count)])
            cost = self._known[hunt.site.name, count]
            if wanted.enough(cost) and wanted.allowed(self.cutter.narrower(hunt.site, count)):
                return Proposal(hunt.site, count, cost)
        return None

    def _cost(self, hunt: _Hunt, index: int) -> Mapping[str, float]:
        return self._known[hunt.site.name, hunt.counts[index]]

    def _saved(self, hunt: _Hunt, wanted: Wanted) -> dict[int, float]:
        known = enumerate((hunt.site.name, count) for count in hunt.counts)
        return {at: wanted.saved(self._known[key]) for at, key in known if key in self._known}

    def _ask(self, cuts: Iterable[tuple[Site, int]]) -> None:
        """Have what several cuts cost known, in one batch.

        What a cut saves is the difference of two costs of one kind, both added from layers; it is
        taken from what the network costs as a whole. A refused one costs inf.
        """
        new = {(site.name, count): (site, count) for site, count in cuts}
        new = {key: cut for key, cut in new.items() if key not in self._known}
        if not new:
            return
        models = [self.cutter.narrower(*cut) for cut in new.values()]
        self.asked += len(models)
        if self._uncut is None:
            uncut, *found = self.costs([self.model, *models], False)
            self._uncut = allowed_cost(uncut)
        else:
            found = list(self.costs(models, False))
        for key, cost in zip(new, found, strict=True):
            if isinstance(cost, Refused):
                self.refused.append((*new[key], cost.reason))
                self._known[key] = dict.fromkeys(self.now, inf)
                continue
            saved = {name: self._uncut[name] - cost[name] for name in self.now}
            self._known[key] = {name: self.now[name] - saved[name] for name in self.now}


def _counts(channels: int, grain: int) -> list[int]:
    """Return the multiples of the grain below a number of channels, the widest first."""
    return list(range((channels - 1) // grain * grain, 0, -grain))
