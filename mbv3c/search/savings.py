"""What one step fewer channels would save on a target, place by place."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from mbv3c.execution.device.place import Place
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.search.channels import Site
from mbv3c.search.prune import Cutter
from mbv3c.target import Target
from mbv3c.targets.costs import costs_of, time_resource

_LEAST = 8  # channels, of the smallest step


@dataclass(frozen=True)
class Saving:
    """What fewer channels at one place save.

    Attributes:
        site: name of the place: of the first node that writes the channels.
        kind: `stem`, `expansion`, `bottleneck`, `tail`, `hidden` or `layer`.
        channels: how many there are.
        fewer: how many there would be: the next multiple of the grain below.
        saved: what an inference then takes less, in the target's own time; more is below 0.
        share: that, as a share of the whole.
    """

    site: str
    kind: str
    channels: int
    fewer: int
    saved: float
    share: float


def savings_of(
    model: onnx.ModelProto,
    target: Target,
    precision: Precision,
    grain: int,
    database: Path,
    progress: Progress,
    place: Place | None = None,
) -> list[Saving]:
    """Return what one step fewer channels would save, at every place where that is possible.

    Raises:
        ModelError: the model is quantized.
        Mbv3cError: as `costs_of` says.
    """
    cutter = Cutter(model)
    steps = [(site, _below(site, grain)) for site in cutter.sites]
    cuts = [(site, fewer) for site, fewer in steps if fewer]
    models = [model, *(cutter.cut({site: range(fewer)}) for site, fewer in cuts)]
    base, *costs = costs_of(models, target, precision, database, progress, place=place)
    time = time_resource(target, precision, place)
    whole = base.resources[time]
    return [
        Saving(
            site.name,
            site.kind,
            site.channels,
            fewer,
            whole - cost.resources[time],
            (whole - cost.resources[time]) / whole,
        )
        for (site, fewer), cost in zip(cuts, costs, strict=True)
    ]


def _below(site: Site, grain: int) -> int:
    """Return the next multiple of the grain below the channels of a place.

    Where there is none, a multiple of half the grain will do, down to 8 channels; 0 for none.
    """
    while grain > _LEAST and site.channels <= grain:
        grain //= 2
    return (site.channels - 1) // grain * grain
