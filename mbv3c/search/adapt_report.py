"""What an adaptation did: a table of its steps, JSON and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mbv3c.figures import figure
from mbv3c.search.adapted import Adapted, Step, Tried
from mbv3c.search.budget import said, within
from mbv3c.search.statistics import Paired, Right, mcnemar
from mbv3c.training.evaluate import Accuracy

_SURE = 0.05  # of McNemar's test; above it a difference is within noise


def met(adapted: Adapted) -> bool:
    """Say whether the result is within the budget."""
    return within(adapted.cost, adapted.limits)


def unconverged(adapted: Adapted) -> Paired | None:
    """Return by how much the given network gained from a short training, if beyond noise."""
    if adapted.control is None:
        return None
    paired = mcnemar(adapted.control, adapted.first_right)
    return paired if paired.difference.low > 0 and paired.p < _SURE else None


def lines(adapted: Adapted) -> list[str]:
    """Return what happened, for people."""
    return list(_lines(adapted))


def _lines(adapted: Adapted) -> Iterator[str]:
    first = adapted.first_cost
    yield f"given: {_costs(adapted, first)}; accuracy {accuracy_text(adapted.first_right)}"
    yield f"budget: {_costs(adapted, adapted.limits)} at most"
    rise = unconverged(adapted)
    if rise is not None:
        yield (
            f"warning: the given network was not trained out: a short training without a cut "
            f"raised its accuracy by {_in_points(rise)}; that much is in every step below. Train "
            "it longer (`mbv3c train`) and begin anew"
        )
    for step in adapted.steps:
        yield from _step(adapted, step)
    if adapted.stuck:
        yield f"stopped: {adapted.stuck}"
    if adapted.finished:
        yield f"as the steps left it: accuracy {accuracy_text(adapted.left_right)}"
    yield f"result: {_costs(adapted, adapted.cost)}; accuracy {accuracy_text(adapted.right)}"
    change = mcnemar(adapted.right, adapted.first_right)
    yield f"against the given network: {difference_text(change)}"
    if not met(adapted):
        over = [key for key, most in adapted.limits.items() if adapted.cost[key] > most]
        amounts = ", ".join(
            f"{said(key, adapted.cost[key])} of {said(key, adapted.limits[key])}" for key in over
        )
        yield f"the budget is missed: {amounts}"


def _step(adapted: Adapted, step: Step) -> Iterator[str]:
    taken, *others = step.tried
    yield (
        f"step {step.number}: {_cut(taken)}; {_costs(adapted, step.cost)}; accuracy "
        f"{accuracy_text(taken.right)}; {len(step.tried)} proposals, {step.asked} cuts asked for"
    )
    if step.last:
        yield "    every proposal meets the budget: the accuracy decides"
    for other in others[:2]:
        paired = mcnemar(taken.right, other.right)
        share = other.cost[step.resource] / adapted.first_cost[step.resource]
        yield (
            f"    next: {_cut(other)}; {step.resource} {share:.3f}, accuracy "
            f"{other.right.mean():.2%}; beside it the one taken has {difference_text(paired)}"
        )
    near = sum(_within_noise(mcnemar(taken.right, other.right)) for other in others)
    if near:
        yield (
            f"    the accuracy of {near} of {len(others)} others is within noise: "
            f"{len(taken.right):,} images cannot tell"
        )


def _cut(tried: Tried) -> str:
    return f"{tried.site.title} {tried.site.channels} → {tried.count}"


def _costs(adapted: Adapted, cost: Mapping[str, float]) -> str:
    return ", ".join(
        f"{said(key, cost[key])} ({cost[key] / adapted.first_cost[key]:.3f})"
        for key in adapted.limits
    )


def accuracy_text(right: Right) -> str:
    """Return an accuracy with its interval, for people."""
    interval = Accuracy(right).interval
    return f"{interval.share:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def difference_text(paired: Paired) -> str:
    """Return a difference with its interval, and whether it is within noise, for people."""
    noise = ", within noise" if _within_noise(paired) else ""
    return f"{_in_points(paired)}, p {paired.p:.2g}{noise}"


def _in_points(paired: Paired) -> str:
    share, low, high = (
        100 * one
        for one in (paired.difference.share, paired.difference.low, paired.difference.high)
    )
    return f"{share:+.2f} points ({low:+.2f} to {high:+.2f})"


def _within_noise(paired: Paired) -> bool:
    return paired.p >= _SURE


def to_json(adapted: Adapted) -> dict[str, Any]:
    """Return the documented JSON form."""
    rise = unconverged(adapted)
    return {
        "budget": dict(adapted.limits),
        "met": met(adapted),
        "stuck": adapted.stuck or None,
        "time": adapted.time,
        "given": {
            "cost": dict(adapted.first_cost),
            "accuracy": Accuracy(adapted.first_right).to_json(),
            "converged": None if adapted.control is None else rise is None,
            "rise": None if rise is None else paired_json(rise),
        },
        "steps": [_step_json(step) for step in adapted.steps],
        "left": {"accuracy": Accuracy(adapted.left_right).to_json()},
        "result": {
            "cost": dict(adapted.cost),
            "accuracy": Accuracy(adapted.right).to_json(),
            "against_given": paired_json(mcnemar(adapted.right, adapted.first_right)),
            "finished": adapted.finished,
        },
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "step": step.number,
        "resource": step.resource,
        "saving": step.saving,
        "by_accuracy_alone": step.last,
        "asked": step.asked,
        "cost": dict(step.cost),
        "proposals": [_tried_json(each, step.tried[0]) for each in step.tried],
    }


def _tried_json(tried: Tried, taken: Tried) -> dict[str, Any]:
    other = tried is not taken
    return {
        "site": tried.site.name,
        "kind": tried.site.kind,
        "from": tried.site.channels,
        "to": tried.count,
        "taken": not other,
        "cost": dict(tried.cost),
        "accuracy": Accuracy(tried.right).to_json(),
        "taken_less_this": paired_json(mcnemar(taken.right, tried.right)) if other else None,
    }


def paired_json(paired: Paired) -> dict[str, Any]:
    """Return the documented JSON form of a difference."""
    return {**asdict(paired.difference), "p": paired.p, "within_noise": _within_noise(paired)}


def draw(path: Path, adapted: Adapted, target: str, *, force: bool = False) -> None:
    """Draw accuracy against cost, step by step, as a PNG or SVG file.

    Raises:
        UsageError: as `figures.check_figure` says.
        BundleError: the place cannot be written, or the disk is full.
    """
    key = adapted.steps[0].resource if adapted.steps else next(iter(adapted.limits))
    path_ = [(adapted.first_cost[key], adapted.first_right)]
    path_ += [(step.cost[key], step.tried[0].right) for step in adapted.steps]
    with figure(path, f"Adapted to {target}", key, "accuracy, %", force=force) as axes:
        others = [(o.cost[key], o.right) for step in adapted.steps for o in step.tried[1:]]
        if others:
            x, y, _ = _points(others)
            axes.plot(x, y, ".", color="0.7", label="other proposals")
        x, y, error = _points(path_)
        axes.errorbar(x, y, error, fmt="o-", color="C0", capsize=3, label="taken, with 95 %")
        if adapted.finished:
            x, y, error = _points([(adapted.cost[key], adapted.right)])
            axes.errorbar(x, y, error, fmt="*", color="C3", ms=12, capsize=3, label="result")
        if key in adapted.limits:
            axes.axvline(adapted.limits[key], color="black", linestyle=":", label="budget")
        axes.legend(fontsize=7)


def _points(found: Sequence[tuple[float, Right]]) -> tuple[list[float], list[float], Any]:
    intervals = [Accuracy(right).interval for _, right in found]
    middles = [100 * each.share for each in intervals]
    below = [100 * (each.share - each.low) for each in intervals]
    above = [100 * (each.high - each.share) for each in intervals]
    return [cost for cost, _ in found], middles, np.array([below, above])
