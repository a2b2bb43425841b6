"""What a model costs, for people: costs by layer and block, and what fewer channels save."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from mbv3c.costs.blocks import blocks_of
from mbv3c.costs.database import folder_of
from mbv3c.costs.questions import Question
from mbv3c.costs.types import NetworkCost
from mbv3c.errors import ModelError
from mbv3c.execution.cache import cache_root
from mbv3c.execution.device.place import Place
from mbv3c.precision import find_precision
from mbv3c.progress import Progress
from mbv3c.search.savings import Saving, savings_of
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.costs import costs_of, measured_on, time_resource
from mbv3c.targets.grain import grain_of

_FEWER = "one step fewer"


@dataclass(frozen=True)
class CostReport:
    """What a model costs on a target.

    Attributes:
        cost: the costs.
        time: the resource that stands for time.
        blocks: time by block; empty where the graph has none.
        grain: the target's grain of channels.
        per_channel: what a channel costs at multiples of each grain.
        savings: what one step fewer channels saves.
        unknown: why savings are not known; empty where they are.
        device: the device whose time it is, as it describes itself; empty without one.
    """

    cost: NetworkCost
    time: str
    blocks: dict[str, float]
    grain: int
    per_channel: dict[int, float]
    savings: list[Saving]
    unknown: str
    device: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        cost, total = self.cost, self.cost.resources[self.time]
        return {
            "target": cost.target,
            "precision": cost.precision,
            "kind": cost.kind,
            "device": self.device or None,
            "time": self.time,
            "resources": dict(cost.resources),
            "layers": [
                {
                    "key": layer.key,
                    "nodes": list(layer.nodes),
                    "calls": layer.calls,
                    "resources": dict(layer.resources),
                    "share": layer.resources[self.time] / total,
                }
                for layer in cost.layers
            ],
            "blocks": [
                {"block": name, self.time: count, "share": count / total}
                for name, count in self.blocks.items()
            ],
            "grain": self.grain,
            "per_channel": {str(grain): cost for grain, cost in self.per_channel.items()},
            "savings": [asdict(saving) for saving in self.savings],
            "savings_unknown": self.unknown or None,
        }

    def lines(self) -> Iterator[str]:
        """Say it for people."""
        cost, time = self.cost, self.time
        total = cost.resources[time]
        named = [(_title(layer.nodes, layer.key), layer.resources[time]) for layer in cost.layers]
        head = f"{time}, {cost.kind}"
        yield from _table("layer", head, named, total)
        if self.blocks:
            yield ""
            yield from _table("block", head, list(self.blocks.items()), total)
        yield ""
        on = f" on {self.device}" if self.device else ""
        memory, weights = cost.resources["memory"], cost.resources["weights"]
        yield (
            f"{cost.target} {cost.precision}: {total:,.0f} {time} ({cost.kind}{on}), "
            f"{memory:,.0f} bytes of activations, {weights:,.0f} bytes of constants"
        )
        yield f"channels come in steps of {self.grain} on this target"
        if self.unknown:
            yield f"what fewer channels would save is not known: {self.unknown}"
            return
        if not self.savings:
            yield "there are no channels that can be taken away"
            return
        yield ""
        wide = max(len(_FEWER), *(len(saving.site) for saving in self.savings)) + 2
        yield f"{_FEWER:<{wide}}{'kind':<12}{'channels':>14}{'saved':>14}{'share':>9}"
        for saving in self.savings:
            step = f"{saving.channels} → {saving.fewer}"
            yield (
                f"{saving.site:<{wide}}{saving.kind:<12}{step:>14}{saving.saved:>14,.0f}"
                f"{saving.share:>9.2%}"
            )


def cost_report(
    model: onnx.ModelProto,
    target_name: str,
    precision_name: str | None,
    folder: Path | None,
    progress: Progress,
    place: Place | None = None,
) -> CostReport:
    """Find out what a model costs on a target, or on a device that is one.

    Raises:
        UsageError: there is no such target, or nothing here tells its costs.
        Mbv3cError: as `costs_of` says.
    """
    target = find_target(target_name)
    wing = backend_of(target).wing
    precision = find_precision(precision_name) if precision_name else wing.precisions[0]
    database = folder_of(folder, cache_root())
    device = measured_on(target, precision, place)
    (cost,) = costs_of([model], target, precision, database, progress, place=place)
    time = time_resource(target, precision, place)
    places = blocks_of(Question(model))
    blocks: dict[str, float] = defaultdict(float)
    for layer in cost.layers if places else ():
        known = [places[node] for node in layer.nodes if node in places]
        blocks[known[0] if known else "elsewhere"] += layer.resources[time]
    grain, per_channel = grain_of(target, precision, database, progress, place)
    savings, unknown = [], ""
    try:
        savings = savings_of(model, target, precision, grain, database, progress, place)
    except ModelError as error:
        unknown = str(error)
    return CostReport(cost, time, dict(blocks), grain, per_channel, savings, unknown, device)


def _table(title: str, head: str, rows: list[tuple[str, float]], total: float) -> Iterator[str]:
    wide = max([len(title), *(len(name) for name, _ in rows)]) + 2
    yield f"{title:<{wide}}{head:>26}{'share':>9}"
    for name, count in rows:
        yield f"{name:<{wide}}{count:>26,.0f}{count / total:>9.2%}"
    yield f"{'total':<{wide}}{total:>26,.0f}{1:>9.2%}"


def _title(nodes: tuple[str, ...], key: str) -> str:
    if not nodes:
        return key
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} and {len(nodes) - 1} more"
