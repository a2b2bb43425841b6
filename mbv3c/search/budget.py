"""What a network may take of a target: budgets as people write them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from mbv3c.errors import UsageError
from mbv3c.nearest import among

# Stands for the target's own time-like resource, whatever it is.
TIME = "time"

_PREFIXES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "KiB": 1 << 10, "MiB": 1 << 20}
_SECONDS = {"us": 1, "µs": 1, "ms": 1e3, "s": 1e6}
_COUNTED = {
    "cycles": "cycles",
    "clocks": "cycles",
    "instructions": "instructions",
    "parameters": "parameters",
    "params": "parameters",
    "multiply_adds": "multiply_adds",
    "madds": "multiply_adds",
}
# What a unit stands for: the resource that has it, unless another is named, and its size.
_UNITS: dict[str, tuple[str, float]] = {
    **{unit: ("us", size) for unit, size in _SECONDS.items()},
    **{unit: ("memory", size) for unit, size in _BYTES.items()},
    **{
        prefix + word: (resource, size)
        for word, resource in _COUNTED.items()
        for prefix, size in _PREFIXES.items()
    },
}
_TIMES = ("cycles", "instructions", "us")
_OF_BYTES = ("memory", "weights")
_RESOURCES = dict.fromkeys((TIME, "cycles", "instructions", "us", *_OF_BYTES, *_COUNTED))
# What a target's own resource of time is called, and an amount of it.
_OWN = {
    "us": ("times", "2.5ms"),
    "cycles": ("cycles", "1.2Mcycles"),
    "instructions": ("instructions", "40Minstructions"),
}
_WRITTEN = re.compile(r"(?:(\w+)=)?(\d+(?:\.\d+)?(?:e\d+)?) ?([A-Za-zµ_]*)")
_EXAMPLES = "0.7x, 2.5ms, 1.2Mcycles, 300KiB or weights=0.5x"


@dataclass(frozen=True)
class Budget:
    """How much of a resource a network may take.

    Attributes:
        resource: key of the resource, or `TIME`.
        amount: how much, in the resource's unit, or as a share of what the given model takes.
        relative: whether it is such a share.
        text: as it was written.
    """

    resource: str
    amount: float
    relative: bool
    text: str


def parse_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Read budgets: `0.7x`, `2.5ms`, `1.2Mcycles`, `300KiB`, `weights=0.5x`; several by commas.

    `x` is a share of what the given model takes, of the target's time unless a resource is named
    before it; bytes are those of activations, unless it says `weights=`.

    Raises:
        UsageError: a text is no budget, or two are of one resource.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    budgets = tuple(map(_parse, filter(None, parts)))
    if not budgets:
        raise UsageError(f"--budget is empty; write one like {_EXAMPLES}")
    named = [budget.resource for budget in budgets]
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise UsageError(f"--budget says {twice[0]} twice; leave one out")
    return budgets


def _parse(text: str) -> Budget:
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise UsageError(f"--budget {text!r} is none; write one like {_EXAMPLES}")
    resource, number, unit = found.groups()
    resource = _COUNTED.get(resource, resource)
    amount = float(number)
    if resource is not None and resource not in _RESOURCES:
        near = among(resource, _RESOURCES)
        raise UsageError(f"--budget {text!r}: unknown resource{near}")
    if not 0 < amount < inf:
        raise UsageError(f"--budget {text!r} must be above 0")
    if unit == "x":
        if amount >= 1:
            raise UsageError(f"--budget {text!r}: every model takes 1x of itself; write less")
        return Budget(resource or TIME, amount, True, text)
    if unit in _PREFIXES and resource is not None:
        return Budget(resource, amount * _PREFIXES[unit], False, text)
    if unit not in _UNITS:
        what = f"unknown unit {unit!r}" if unit else "a number without a unit"
        raise UsageError(f"--budget {text!r}: {what}; write one like {_EXAMPLES}")
    own, size = _UNITS[unit]
    if resource is not None and resource != own and not {own, resource} <= {*_OF_BYTES}:
        raise UsageError(f"--budget {text!r}: {resource} is not counted in {unit}")
    return Budget(resource or own, amount * size, False, text)


def check_time(budgets: Sequence[Budget], time: Callable[[], str]) -> None:
    """Make sure that budgets of time are in a target's own unit, before costs are asked for.

    Args:
        budgets: budgets.
        time: function that returns the key of the target's own time-like resource; it is asked
            only where a budget names such a resource.

    Raises:
        UsageError: the target's costs are in another one, or its own is named twice.
    """
    for budget in budgets:
        if budget.resource not in _TIMES:
            continue
        if budget.resource != (own := time()):
            costs, example = _OWN[own]
            raise UsageError(
                f"--budget {budget.text}: this target's costs are {costs}, and not "
                f"{_OWN[budget.resource][0]}; write one such as {example}, or a share such as 0.7x"
            )
        if other := next((each.text for each in budgets if each.resource == TIME), None):
            raise UsageError(
                f"--budget {other} and {budget.text} are both of {own}, which is what stands for "
                "time on this target; leave one out"
            )


def limits(budgets: Sequence[Budget], first: Mapping[str, float], time: str) -> dict[str, float]:
    """Return how much a network may take of each resource, by its key.

    Args:
        budgets: budgets.
        first: what the given model takes.
        time: key of the target's own time-like resource.

    Raises:
        UsageError: the target's costs have no such resource, or the model is within all budgets
            already.
    """
    found = amounts(budgets, first, time)
    if within(first, found):
        taken = ", ".join(
            f"{said(key, first[key])} where {said(key, found[key])} may be taken" for key in found
        )
        raise UsageError(
            f"the model is within the budget already: it takes {taken}; ask for less, or take the "
            "model as it is"
        )
    return found


def amounts(budgets: Sequence[Budget], first: Mapping[str, float], time: str) -> dict[str, float]:
    """Return the amount of each resource that budgets name, in their order.

    Args:
        budgets: budgets.
        first: what relative budgets are a share of, by the resources of the target's costs.
        time: key of the target's own time-like resource.

    Raises:
        UsageError: the target's costs have no such resource, or it is named twice.
    """
    found: dict[str, float] = {}
    for budget in budgets:
        key = time if budget.resource == TIME else budget.resource
        if key not in first:
            raise UsageError(
                f"--budget {budget.text}: this target's costs are in {time}, and have no {key}; "
                f"known: {', '.join(first)}"
            )
        if key in found:
            raise UsageError(f"--budget says {key} twice; leave one out")
        found[key] = budget.amount * first[key] if budget.relative else budget.amount
    return found


def within(cost: Mapping[str, float], most: Mapping[str, float]) -> bool:
    """Say whether a network takes no more of anything than it may."""
    return all(cost[key] <= limit for key, limit in most.items())


def said(resource: str, amount: float) -> str:
    """Return an amount for people, such as `1.03 M cycles`, `300 KiB of memory` or `2.5 ms`."""
    if resource == "us":
        return f"{amount / 1e3:,.3f} ms"
    if resource in _OF_BYTES:
        return f"{amount / 1024:,.1f} KiB of {resource}"
    name = resource.replace("_", "-")
    return f"{amount / 1e6:,.3f} M {name}" if amount >= 1e6 else f"{amount:,.0f} {name}"
