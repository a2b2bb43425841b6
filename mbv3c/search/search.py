"""Search for a network: sample → cost filter → short trainings, halved → finalists → verdict.

Everything is a function of the plan and of the answers to its questions. The answers are in a
journal; a search that was interrupted asks the same questions once more, takes the answers from
there as far as they go, and so comes to the result that it would have had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mbv3c.errors import Mbv3cError
from mbv3c.progress import Progress
from mbv3c.search.aim import Aim
from mbv3c.search.answers import Answers, Cost, Journalled, Known, Refused, Training, accepted
from mbv3c.search.found import Final, Found, Round, Row, Sampled
from mbv3c.search.halving import Entry, paired_seeds, promoted
from mbv3c.search.plan import SearchPlan
from mbv3c.search.sample import Asked, Sampler
from mbv3c.search.space import Candidate, Space, width_family
from mbv3c.search.statistics import rank_correlation, seed_noise
from mbv3c.search.widths import Beside, widths_beside

# A network that the target refuses is told to the sampler like one at twice the budget.
_REFUSED_EXCESS = 1.0


class SearchError(Mbv3cError):
    """A search that found nothing, or whose journal tells of another one."""

    kind = "search"


@dataclass(frozen=True)
class _Network:
    """A network that meets the budget."""

    candidate: Candidate
    cost: Cost


def search(
    space: Space,
    aim: Aim,
    plan: SearchPlan,
    answers: Answers,
    journal: Known,
    progress: Progress = lambda step: None,
) -> Found:
    """Look for the best networks of a space.

    Args:
        space: the networks.
        aim: what counts.
        plan: how long to look.
        answers: what knows costs and accuracies.
        journal: what was answered before; answers are added to it.
        progress: told of each step.

    Raises:
        SearchError: no network met the budget, or the journal has other questions.
        Mbv3cError: what the answers raise.
    """
    asking = _Search(space, aim, plan, Journalled(answers, journal), progress)
    networks, sampled = asking.sample()
    rounds, left = asking.halve(networks)
    return asking.judge(sampled, rounds, left)


class _Search:
    def __init__(
        self, space: Space, aim: Aim, plan: SearchPlan, answers: Journalled, progress: Progress
    ) -> None:
        self._space, self._aim, self._plan = space, aim, plan
        self._answers, self._progress = answers, progress

    def sample(self) -> tuple[dict[str, _Network], Sampled]:
        """Ask the sampler, leave out what costs too much, and train the others a little."""
        plan, sampler = self._plan, self._sampler()
        networks: dict[str, _Network] = {}
        counts = dict.fromkeys(("asked", "refused", "over", "dropped", "again"), 0)
        nearest, below = float("inf"), 0
        for batch in range(plan.batches):
            asked = sampler.ask(plan.asked)
            candidates = [self._space.network(each.picked) for each in asked]
            self._check_batch(batch, candidates)
            self._progress(f"batch {batch + 1} of {plan.batches}: what {len(asked)} networks cost")
            costs = self._answers.costs(candidates)
            chosen: list[tuple[Asked, _Network]] = []
            new: set[str] = set()
            for each, candidate, cost in zip(asked, candidates, costs, strict=True):
                counts["asked"] += 1
                if isinstance(cost, Refused):
                    self._progress(f"{candidate.name} is refused: {cost.reason}")
                    sampler.reject(each, _REFUSED_EXCESS)
                    counts["refused"] += 1
                    continue
                excess = self._aim.excess(cost)
                nearest = min(nearest, excess)
                known = candidate.name in networks or candidate.name in new
                if excess > 0:
                    sampler.reject(each, excess)
                    counts["over"] += 1
                    below += self._aim.below(cost)
                elif known or len(new) < plan.trained:
                    counts["again"] += known
                    new |= set() if known else {candidate.name}
                    chosen.append((each, _Network(candidate, cost)))
                else:
                    sampler.drop(each)
                    counts["dropped"] += 1
            for _, network in chosen:
                networks.setdefault(network.candidate.name, network)
            self._progress(
                f"batch {batch + 1}: {len(new)} new networks meet the budget; training each for "
                f"{plan.halving.steps[0]} steps"
            )
            accuracies = self._accuracies([network for _, network in chosen], 0)
            for each, network in chosen:
                accuracy = accuracies[network.candidate.name]
                reward = self._aim.reward(accuracy, network.cost)
                sampler.tell(each, reward, accuracy, network.cost[self._aim.resource])
        if not networks:
            raise SearchError(_nothing(counts, below, nearest, self._aim.least))
        return networks, Sampled(trained=len(networks), **counts)

    def _sampler(self) -> Sampler:
        plan = self._plan
        return Sampler(self._space, plan.method, plan.seed, plan.trained)

    def _check_batch(self, batch: int, candidates: Sequence[Candidate]) -> None:
        """Make sure that the sampler asks what it asked the first time."""
        names = [candidate.name for candidate in candidates]
        if self._answers.noted("asked", batch, value=names) != names:
            raise SearchError(
                f"the journal has other networks in batch {batch + 1}, so that it was written "
                "with another version of Optuna, numpy or Python; go on with that one, or begin "
                "anew in another folder"
            )

    def _accuracies(self, networks: Sequence[_Network], index: int) -> dict[str, float]:
        """Return the accuracies of a round from the first seed."""
        found = self._train(dict.fromkeys((each.candidate for each in networks), 1), index)
        return {name: values[0] for name, values in found.items()}

    def _train(self, seeds: Mapping[Candidate, int], index: int) -> dict[str, list[float]]:
        """Return the accuracies of a round, of each network from so many seeds."""
        steps, first = self._plan.halving.steps[index], self._plan.seed
        trainings = [
            Training(candidate, steps, seed, "validation")
            for candidate, count in seeds.items()
            for seed in paired_seeds(first, count)
        ]
        accuracies: dict[str, list[float]] = {}
        for training, right in zip(trainings, self._answers.train(trainings), strict=True):
            accuracies.setdefault(training.candidate.name, []).append(float(right.mean()))
        return accuracies

    def halve(self, networks: Mapping[str, _Network]) -> tuple[list[Round], list[_Network]]:
        """Train ever fewer networks ever longer."""
        halving, left = self._plan.halving, dict(networks)
        rounds: list[Round] = []
        for index, steps in enumerate(halving.steps):
            self._progress(
                f"training {len(left)} networks for {steps} steps, one of them from "
                f"{self._plan.repeats} seeds"
            )
            ordered = sorted(left.values(), key=self._order)
            middle = ordered[len(ordered) // 2].candidate
            seeds = {each.candidate: 1 for each in ordered} | {middle: self._plan.repeats}
            accuracies = self._train(seeds, index)
            entries = [self._entry(each, accuracies[each.candidate.name][0]) for each in ordered]
            keep = halving.kept(len(entries), index)
            kept = [entry.name for entry in promoted(entries, keep, halving.bands)]
            rows = tuple(
                Row(name, each.cost, accuracies[name][0], name in kept)
                for each in ordered
                for name in [each.candidate.name]
            )
            repeats = tuple(accuracies[middle.name])
            rounds.append(Round(steps, rows, middle.name, repeats, seed_noise([repeats])))
            left = {name: left[name] for name in kept}
        return [*_correlated(rounds)], list(left.values())

    def _order(self, network: _Network) -> tuple[float, str]:
        return network.cost[self._aim.resource], network.candidate.name

    def _entry(self, network: _Network, accuracy: float) -> Entry:
        cost = network.cost[self._aim.resource]
        return Entry(network.candidate.name, cost, self._aim.reward(accuracy, network.cost))

    def judge(self, sampled: Sampled, rounds: Sequence[Round], left: Sequence[_Network]) -> Found:
        """Train what is left and the widths beside it long and alike, and compare them."""
        finalists = self._whole(left)
        self._progress("which widths of MobileNetV3 cost as much as the finalists")
        families = {
            network.candidate.resolution: width_family(
                self._space.variant, network.candidate.resolution
            )
            for network in finalists
        }
        beside: dict[str, Beside] = {}
        widths: dict[tuple[int, float], _Network] = {}
        for side, family in families.items():
            of_side = [each for each in finalists if each.candidate.resolution == side]
            wanted = self._taken([each.candidate for each in of_side])
            found = widths_beside(wanted, family, self._taken)
            beside |= {each.candidate.name: one for each, one in zip(of_side, found, strict=True)}
            needed = sorted({width for one in found for width in one.widths})
            candidates = [family[width] for width in needed]
            costs = accepted(candidates, self._answers.costs(candidates, whole=True))
            for width, cost in zip(needed, costs, strict=True):
                widths[side, width] = _Network(family[width], cost)
        finals = self._finals(finalists, widths)
        return Found(
            self._space,
            self._aim,
            self._plan,
            self._answers.judging,
            sampled,
            tuple(rounds),
            tuple(finals),
            beside,
        )

    def _whole(self, left: Sequence[_Network]) -> list[_Network]:
        """Ask for networks as wholes, and leave out those that the target refuses."""
        costs = self._answers.costs([each.candidate for each in left], whole=True)
        taken: list[_Network] = []
        for each, cost in zip(left, costs, strict=True):
            if isinstance(cost, Refused):
                self._progress(f"{each.candidate.name} is refused as a whole: {cost.reason}")
            else:
                taken.append(replace(each, cost=cost))
        if not taken:
            raise SearchError(
                "the target refuses every finalist as a whole network, and the journal says why; "
                "ask for more --finalists in another folder"
            )
        return taken

    def _taken(self, candidates: Sequence[Candidate]) -> list[float]:
        costs = accepted(candidates, self._answers.costs(candidates))
        return [cost[self._aim.resource] for cost in costs]

    def _finals(
        self, finalists: Sequence[_Network], widths: Mapping[tuple[int, float], _Network]
    ) -> list[Final]:
        plan, judging = self._plan, self._answers.judging
        seeds = paired_seeds(plan.seed, plan.final_seeds)
        networks: list[tuple[float | None, _Network]] = [(None, each) for each in finalists]
        networks += [(width, each) for (_, width), each in widths.items()]
        self._progress(
            f"training {len(networks)} networks ({len(finalists)} finalists, {len(widths)} "
            f"widths) from {len(seeds)} seeds for {plan.final_steps} steps"
        )
        trainings = [
            [Training(each.candidate, plan.final_steps, seed, judging) for seed in seeds]
            for _, each in networks
        ]
        rights = iter(self._answers.train([one for group in trainings for one in group]))
        trained = [tuple(next(rights) for _ in group) for group in trainings]
        self._progress(f"quantizing and compiling {len(networks)} networks")
        # Of each network the first seed's: a choice by these images would flatter it.
        bundles = self._answers.compile([group[0] for group in trainings])
        return [
            Final(network.candidate, network.cost, width, right, group[0], bundle)
            for (width, network), right, group, bundle in zip(
                networks, trained, trainings, bundles, strict=True
            )
        ]


def _nothing(counts: Mapping[str, int], below: int, nearest: float, least: float) -> str:
    """Say that no network can be trained."""
    asked = counts["asked"]
    if counts["refused"] == asked:
        return (
            f"the target refuses all of {asked} networks, and the journal says why; choose "
            "another target or variant, and another --output"
        )
    found = f"{counts['over'] - below} take more, {below} less than --least {least:g} of it"
    return (
        f"none of {asked} networks met the budget: {found}; the nearest was off by {nearest:.0%} "
        "of it; choose another budget, --least or variant, and another --output: costs that were "
        "asked for are known there, too"
    )


def _correlated(rounds: Sequence[Round]) -> Sequence[Round]:
    """Note how well the order of each round is that of the next."""
    found = []
    for index, each in enumerate(rounds):
        if index + 1 == len(rounds):
            found.append(each)
            continue
        before = {row.name: row.accuracy for row in each.rows}
        after = rounds[index + 1].rows
        pairs = [(before[row.name], row.accuracy) for row in after]
        found.append(replace(each, order=rank_correlation(*np.transpose(pairs).tolist())))
    return found


def header(space: Space, aim: Aim, plan: SearchPlan, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that decides the result of a search, for the head of its journal."""
    return {
        "command": "search",
        "space": space.to_json(),
        "aim": aim.to_json(),
        "plan": plan.to_json(),
        **rest,
    }
