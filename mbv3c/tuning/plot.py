"""What a search found over time, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.figures import figure
from mbv3c.tuning.database import Record
from mbv3c.tuning.tuner import State

_NAMED = 8  # curves with a colour and a name; the others are grey


@dataclass(frozen=True)
class Curve:
    """The least cost found so far, relative to the default's.

    Attributes:
        name: of the kernel, or of all of them.
        share: of the network's cost that is the kernel's, with its default choices.
        steps: measurements until then, of all kernels; and the least cost then.
    """

    name: str
    share: float
    steps: tuple[tuple[int, float], ...]

    @property
    def saved(self) -> float:
        """Of the network's cost, the share that it takes less."""
        return self.share * (1.0 - self.steps[-1][1])


def curves(states: Sequence[State], records: Sequence[Record]) -> list[Curve]:
    """Return a curve for the whole network, estimated from its kernels, and one for each of them.

    Those of the kernels that save most come first.

    Args:
        states: the kernels of the network.
        records: of this search and of those before it, in the order of measurement. Those of
            last contests are left out.
    """
    costs = {one.task.key: one.task.calls * (one.cost or 0.0) for one in states}
    total = sum(costs.values()) or 1.0
    least = dict.fromkeys(costs, 1.0)
    found = {key: [(0, 1.0)] for key in costs}
    whole = [(0, 1.0)]
    count = 0
    for record in records:
        if record.key not in least or record.kept:
            continue
        count += 1
        relative = record.relative
        if relative is not None and relative < least[record.key]:
            least[record.key] = relative
        found[record.key].append((count, least[record.key]))
        whole.append((count, sum(costs[key] * least[key] for key in costs) / total))
    kernels = [
        Curve(
            one.task.name,
            costs[one.task.key] / total,
            (*found[one.task.key], (count, least[one.task.key])),
        )
        for one in states
    ]
    kernels.sort(key=lambda one: -one.saved)
    return [Curve("whole network, estimated", 1.0, tuple(whole)), *kernels]


def draw(
    path: Path, found: Sequence[Curve], device: str, runner: str, *, force: bool = False
) -> None:
    """Draw curves; those of the kernels that save most of the network's cost are named.

    Raises:
        UsageError: as `figures.check_figure` says.
        BundleError: the place cannot be written, or the disk is full.
    """
    title = f"{device}: best so far ({runner})"
    labels = ("measurements, in their order", "cost, relative to the default choice")
    with figure(path, title, *labels, force=force) as axes:
        whole, *kernels = found
        for at, one in enumerate(kernels):
            named = at < _NAMED and one.saved > 0
            axes.step(
                *zip(*one.steps, strict=True),
                where="post",
                linewidth=1.2 if named else 0.6,
                color=f"C{at}" if named else "0.8",
                zorder=2 if named else 1,
                label=f"{one.name}: saves {one.saved:.1%}" if named else None,
            )
        axes.step(
            *zip(*whole.steps, strict=True),
            where="post",
            linewidth=2.5,
            color="black",
            zorder=3,
            label=whole.name,
        )
        axes.legend(fontsize=7, loc="lower left")
