"""What a search found over time, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbv3c.figures import figure, label_text
from mbv3c.tuning.database import Record
from mbv3c.tuning.state import State

_NAMED = 8  # curves with a colour and a name; the others are grey


@dataclass(frozen=True)
class Curve:
    """The least cost so far, relative to the default's.

    Attributes:
        name: name of the kernel, or of the whole network.
        share: share of the network's cost that is the kernel's, with its default choices.
        steps: number of measurements so far, of all kernels, and the least cost then.
    """

    name: str
    share: float
    steps: tuple[tuple[int, float], ...]

    @property
    def saved(self) -> float:
        """The share of the network's cost that is saved."""
        return self.share * (1.0 - self.steps[-1][1])


def curves(states: Sequence[State], records: Sequence[Record]) -> list[Curve]:
    """Return a curve for the whole network, estimated from its kernels, and one for each of them.

    Those of the kernels that save most come first.

    Args:
        states: kernels of the network.
        records: records of this search and of those before, in the order of measurement. Those of
            last contests are left out.
    """
    costs = {state.task.key: state.task.calls * (state.cost or 0.0) for state in states}
    total = sum(costs.values()) or 1.0
    least = dict.fromkeys(costs, 1.0)
    steps = {key: [(0, 1.0)] for key in costs}
    network = [(0, 1.0)]
    count = 0
    for record in records:
        if record.key not in least or record.kept:
            continue
        count += 1
        relative = record.relative
        if relative is not None and relative < least[record.key]:
            least[record.key] = relative
        steps[record.key].append((count, least[record.key]))
        network.append((count, sum(costs[key] * least[key] for key in costs) / total))
    kernels = [
        Curve(
            state.task.name,
            costs[state.task.key] / total,
            (*steps[state.task.key], (count, least[state.task.key])),
        )
        for state in states
    ]
    kernels.sort(key=lambda curve: -curve.saved)
    return [Curve("whole network, estimated", 1.0, tuple(network)), *kernels]


def draw(
    path: Path, drawn: Sequence[Curve], device: str, runner: str, *, force: bool = False
) -> None:
    """Draw curves; those of the kernels that save most of the network's cost are named.

    Raises:
        UsageError: as `figures.check_figure` says.
        BundleError: the place cannot be written, or the disk is full.
    """
    title = f"{device}: best so far ({runner})"
    with figure(path, title, *LABELS, force=force) as axes:
        network, *kernels = drawn
        draw_on(axes, kernels)
        axes.step(
            *zip(*network.steps, strict=True),
            where="post",
            linewidth=2.5,
            color="black",
            zorder=3,
            label=network.name,
        )
        axes.legend(fontsize=7, loc="lower left")


LABELS = ("measurements, in their order", "cost, relative to the default choice")


def draw_on(axes: Any, kernels: Sequence[Curve]) -> None:
    """Draw the curves of kernels on axes that exist: the first have a colour and a name."""
    for at, curve in enumerate(kernels):
        named = at < _NAMED and curve.saved > 0
        axes.step(
            *zip(*curve.steps, strict=True),
            where="post",
            linewidth=1.2 if named else 0.6,
            color=f"C{at}" if named else "0.8",
            zorder=2 if named else 1,
            label=f"{label_text(curve.name)}: saves {curve.saved:.1%}" if named else None,
        )


def kernel_curves(records: Sequence[Record]) -> list[Curve]:
    """Return a curve for each kernel of a database, those with the largest gain first.

    Each has a share of 1: a database does not know how much of a network a kernel takes.

    Args:
        records: records in the order of measurement. Those of last contests are left out.
    """
    steps: dict[str, list[tuple[int, float]]] = {}
    tried = [record for record in records if not record.kept]
    for count, record in enumerate(tried, 1):
        taken = steps.setdefault(record.key, [(0, 1.0)])
        relative = record.relative
        taken.append((count, min(taken[-1][1], 1.0 if relative is None else relative)))
    found = [Curve(key, 1.0, (*taken, (len(tried), taken[-1][1]))) for key, taken in steps.items()]
    return sorted(found, key=lambda curve: -curve.saved)
