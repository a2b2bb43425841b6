"""NetAdapt: make a trained network fit a budget, cut by cut.

T.-J. Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications",
ECCV 2018, arXiv:1804.03230; as in MobileNetV3, arXiv:1905.02244, section 4.2. In each step every
site of the network proposes the widest cut that saves enough; each is trained for a short while;
that with the best change of accuracy for what it saves is taken. What it saves is asked of the
target itself.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from mbv3c.atomic import new_file
from mbv3c.costs.types import time_of
from mbv3c.errors import ModelError, UsageError
from mbv3c.search.adapted import Adapted, AdaptPlan, Means, Step, Tried, Tuned
from mbv3c.search.answers import Refused, allowed_cost, pack, unpack
from mbv3c.search.budget import limits, said, within
from mbv3c.search.channels import sites
from mbv3c.search.journal import Journal
from mbv3c.search.layers import layers_of
from mbv3c.search.proposals import Proposal, Proposing, Wanted
from mbv3c.search.prune import Cutter
from mbv3c.search.statistics import Right

_HALVINGS = 6  # of the saving that is wanted, where no site can save it


@dataclass(frozen=True)
class _State:
    """A network on the way."""

    model: onnx.ModelProto
    right: Right
    cost: Mapping[str, float]


def adapt(model: onnx.ModelProto, plan: AdaptPlan, means: Means, journal: Journal) -> Adapted:
    """Make a trained network fit a budget.

    The journal has everything that was found, and the networks after each step lie beside it as
    `step-N.onnx`: after an interruption it goes on, to the same result.

    Raises:
        UsageError: the budget is met already, the target has no such resource, `plan.kept` names
            no site, or a network beside the journal was changed.
        ModelError: the network is quantized.
    """
    check_kept(model, plan.kept)
    start = _start(model, plan, means, journal)
    time = time_of(start.cost)
    most = limits(plan.budgets, start.cost, time)
    run = _Run(plan, means, journal, most, start, isinstance(layers_of(model), str))
    state, steps, control, stuck = start, list[Step](), None, ""
    while not within(state.cost, most):
        number = len(steps) + 1
        found = run.proposals(number, state)
        if found is None:
            stuck = run.stuck(state)
            break
        state, step, of_start = run.step(number, state, *found)
        control = of_start if number == 1 else control
        steps.append(step)
        means.progress(f"step {number}: {_sentence(step, start.cost)}")
    end = run.finish(state)
    return Adapted(
        model=end.model,
        limits=most,
        time=time,
        first_cost=start.cost,
        first_right=start.right,
        control=control,
        steps=tuple(steps),
        left_right=state.right,
        right=end.right,
        cost=end.cost,
        finished=means.finish is not None,
        stuck=stuck,
    )


def check_kept(model: onnx.ModelProto, kept: Sequence[str]) -> None:
    """Make sure that a model can be cut somewhere, and has the sites that are to be left alone.

    Raises:
        UsageError: there is nothing to cut, or `kept` names no site.
        ModelError: the model is quantized.
    """
    found = sites(model)
    known = {site.kind for site in found} | {site.name for site in found}
    if not known:
        raise UsageError("the model has no channels that can be cut")
    unknown = [name for name in kept if name not in known]
    if not [site for site in found if not {site.name, site.kind} & {*kept}] and not unknown:
        raise UsageError("--keep leaves no site of the model that may be cut; keep fewer")
    if unknown:
        raise UsageError(
            f"--keep {unknown[0]!r} is no site of the model; its sites are "
            f"{', '.join(site.name for site in found)}, of the kinds "
            f"{', '.join(sorted({site.kind for site in found}))}"
        )


def _start(model: onnx.ModelProto, plan: AdaptPlan, means: Means, journal: Journal) -> _State:
    def find() -> dict[str, Any]:
        means.progress("asking for the cost and the accuracy of the given network")
        (asked,) = means.costs([model], True)
        cost = allowed_cost(asked)
        limits(plan.budgets, cost, time_of(cost))  # what is refused leaves no record
        return {"cost": dict(cost), "right": pack(means.judge(model))}

    known = journal.once("start", find=find)
    return _State(model, unpack(known["right"]), known["cost"])


def _sentence(step: Step, first: Mapping[str, float]) -> str:
    taken = step.tried[0]
    share = step.cost[step.resource] / first[step.resource]
    return (
        f"{taken.site.title} {taken.site.channels} → {taken.count}; "
        f"{said(step.resource, step.cost[step.resource])} ({share:.3f}), "
        f"accuracy {taken.right.mean():.2%}"
    )


class _Run:
    """The steps of one adaptation."""

    def __init__(
        self,
        plan: AdaptPlan,
        means: Means,
        journal: Journal,
        most: Mapping[str, float],
        start: _State,
        free: bool,
    ) -> None:
        self._plan, self._means, self._journal = plan, means, journal
        self._most, self._start = most, start
        # A network that an architecture can say stays one.
        self._allowed: Callable[[onnx.ModelProto], bool] = (
            (lambda _: True) if free else (lambda cut: not isinstance(layers_of(cut), str))
        )

    def _resource(self, cost: Mapping[str, float]) -> str:
        """Return the resource of which a network takes too much most."""
        return max(self._most, key=lambda key: cost[key] / self._most[key])

    def proposals(self, number: int, state: _State) -> tuple[Wanted, list[Proposal], int] | None:
        """Return what a step wants, its proposals and the number of questions.

        Returns:
            None if no site saves anything of what has to be saved.
        """
        key = self._resource(state.cost)
        over = state.cost[key] - self._most[key]
        saving = self._plan.saving * self._start.cost[key] * self._plan.decay ** (number - 1)
        by_name = {site.name: site for site in sites(state.model)}

        def find() -> dict[str, Any]:
            self._means.progress(f"step {number}: asking what cuts of {len(by_name)} sites save")
            asking = Proposing(state.model, state.cost, self._means.costs)
            wanted, proposals = self._found(asking, state, (key, over, saving))
            rows = [[each.site.name, each.count, dict(each.cost)] for each in proposals]
            refused = [[site.name, count, reason] for site, count, reason in asking.refused]
            for name, count, reason in refused:
                self._means.progress(f"step {number}: {name} {count} is refused: {reason}")
            return {
                "saving": wanted.saving,
                "proposals": rows,
                "asked": asking.asked,
                "refused": refused,
            }

        known = self._journal.once("proposals", number, find=find)
        found = [Proposal(by_name[name], count, cost) for name, count, cost in known["proposals"]]
        wanted = self._wanted(state, key, known["saving"])
        return (wanted, found, known["asked"]) if found else None

    def _wanted(self, state: _State, key: str, saving: float) -> Wanted:
        others = {name: limit for name, limit in self._most.items() if name != key}
        return Wanted(key, state.cost, saving, others, self._plan.grain, self._allowed)

    def _found(
        self, asking: Proposing, state: _State, needed: tuple[str, float, float]
    ) -> tuple[Wanted, list[Proposal]]:
        """Ask for less saving until a site can save it."""
        key, over, saving = needed
        kept = self._plan.kept
        cuttable = [
            each for each in asking.cutter.sites if each.name not in kept and each.kind not in kept
        ]
        for halving in range(_HALVINGS + 1):
            wanted = self._wanted(state, key, min(saving / 2**halving, over))
            proposals = asking.propose(cuttable, wanted)
            if proposals:
                break
        return wanted, proposals

    def step(
        self, number: int, state: _State, wanted: Wanted, proposals: list[Proposal], asked: int
    ) -> tuple[_State, Step, Right | None]:
        """Train the proposals and take one; return also how well the start does when trained."""
        last = all(within(each.cost, self._most) for each in proposals)

        def find() -> dict[str, Any]:
            tuned, control = self._trained(number, state, proposals)
            order = sorted(range(len(proposals)), key=lambda at: -worth(at, tuned))
            best, cost = self._first_accepted(number, order, tuned)
            return {
                "order": sorted(order, key=lambda at: at != best),
                "right": [pack(each.right) for each in tuned],
                "control": None if control is None else pack(control.right),
                "cost": dict(cost),
                "model": self._keep(number, tuned[best].model),
            }

        def worth(at: int, tuned: Sequence[Tuned]) -> float:
            change = float(tuned[at].right.mean() - state.right.mean())
            return change if last else change / wanted.saved(proposals[at].cost)

        known = self._journal.once("step", number, find=find)
        tried = [
            Tried(proposals[at].site, proposals[at].count, proposals[at].cost, unpack(right))
            for at, right in enumerate(known["right"])
        ]
        ordered = tuple(tried[at] for at in known["order"])
        model = self._kept(number, known["model"])
        step = Step(number, wanted.resource, wanted.saving, ordered, last, known["cost"], asked)
        control = None if known["control"] is None else unpack(known["control"])
        return _State(model, ordered[0].right, known["cost"]), step, control

    def _first_accepted(
        self, number: int, order: Sequence[int], tuned: Sequence[Tuned]
    ) -> tuple[int, Mapping[str, float]]:
        """Return the best proposal that the target takes as a whole, and what it costs.

        Raises:
            ModelError: the target refuses all of them.
        """
        reason = "there are none"
        for at in order:
            (cost,) = self._means.costs([tuned[at].model], True)
            if not isinstance(cost, Refused):
                return at, cost
            reason = cost.reason
            self._means.progress(f"step {number}: the winner is refused: {reason}")
        raise ModelError(f"step {number}: the target refuses all proposals: {reason}")

    def _trained(
        self, number: int, state: _State, proposals: Sequence[Proposal]
    ) -> tuple[Sequence[Tuned], Tuned | None]:
        """Train all proposals for a short while, and in the first step the given network, too."""
        cutter = Cutter(state.model)
        jobs = [
            (
                f"step {number}: {each.site.title} {each.count}",
                cutter.narrower(each.site, each.count),
            )
            for each in proposals
        ]
        if number == 1:
            jobs.append(("step 1: the given network, uncut", state.model))
        self._means.progress(f"step {number}: training {len(jobs)} networks for a short while")
        tuned = self._means.tune(jobs)
        return tuned[: len(proposals)], tuned[-1] if number == 1 else None

    def finish(self, state: _State) -> _State:
        """Train the last network to the end, if that is wanted, and ask for its cost."""
        if self._means.finish is None:
            return state
        train = self._means.finish

        def find() -> dict[str, Any]:
            self._means.progress("training the result to the end")
            tuned = train(state.model)
            (cost,) = self._means.costs([tuned.model], True)
            cost = allowed_cost(cost)
            return {
                "right": pack(tuned.right),
                "cost": dict(cost),
                "model": self._keep("finished", tuned.model),
            }

        known = self._journal.once("finish", find=find)
        model = self._kept("finished", known["model"])
        return _State(model, unpack(known["right"]), known["cost"])

    def stuck(self, state: _State) -> str:
        key = self._resource(state.cost)
        return (
            f"no cut of one site saves any {key}: the network takes {said(key, state.cost[key])}, "
            f"and may take {said(key, self._most[key])}; allow more, give a smaller --grain, or "
            "begin with another network"
        )

    # ---- networks beside the journal ----

    def _path(self, name: int | str) -> Path:
        return self._journal.path.parent / f"step-{name}.onnx"

    def _keep(self, name: int | str, model: onnx.ModelProto) -> str:
        content = model.SerializeToString(deterministic=True)
        with new_file(self._path(name), force=True) as temporary:
            temporary.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def _kept(self, name: int | str, digest: str) -> onnx.ModelProto:
        path = self._path(name)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise UsageError(
                f"{path} is gone or was changed, and the journal {self._journal.path} needs it; "
                f"remove the folder {path.parent} to begin anew"
            )
        model: onnx.ModelProto = onnx.load_model_from_string(content)
        return model
