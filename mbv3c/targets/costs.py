"""Ask what networks cost on a target: of the table first, and then of the target's backend."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import onnx

from mbv3c.costs.asking import Coster, answers
from mbv3c.costs.database import DEVICE
from mbv3c.costs.types import NetworkCost
from mbv3c.errors import Mbv3cError, ModelError
from mbv3c.execution.device.place import Place
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.target import Target
from mbv3c.targets import backend_of


def costs_of(
    models: Sequence[onnx.ModelProto],
    target: Target,
    precision: Precision,
    database: Path,
    progress: Progress,
    *,
    whole: bool = False,
    place: Place | None = None,
) -> list[NetworkCost]:
    """Return what one inference of each network costs on a target.

    What the database knows takes milliseconds. Of what it lacks, networks that differ in channel
    counts only are rewritten once, and what is to be built is built together.

    Args:
        models: the networks, with inputs of fixed shapes. Their weights need not be trained:
            without `whole` only the form of a network counts.
        target: the device.
        precision: the precision.
        database: the folder of all databases of costs.
        progress: function that is told what is being done.
        whole: whether to have whole networks compiled with their own weights, instead of adding
            layers up.
        place: a device whose time is the cost; None for what is known here of the target.

    Raises:
        UsageError: the device does not compute in the precision, or nothing here tells costs.
        ToolError: what tells costs is not installed, or fails; or the device does.
        CostDatabaseError: the database cannot be read or written.
        ModelError: a network cannot be compiled.
    """
    coster = _coster(target, precision, place)
    return answers(coster, models, database, progress, whole=whole)


def costs_or_refusals(
    models: Sequence[onnx.ModelProto],
    target: Target,
    precision: Precision,
    database: Path,
    progress: Progress,
    *,
    whole: bool = False,
    place: Place | None = None,
    refusals: tuple[type[Mbv3cError], ...] = (ModelError,),
) -> list[NetworkCost | Mbv3cError]:
    """Return what networks cost as `costs_of` does, and in the place of a network's cost why not.

    A batch in which a network is refused is halved until that one stands alone. `refusals` are
    the errors that say so of a network.

    Raises:
        UsageError: the device does not compute in the precision, or nothing here tells costs.
        ToolError: what tells costs is not installed, or fails.
        CostDatabaseError: the database cannot be read or written.
    """
    asked = target, precision, database, progress
    try:
        return [*costs_of(models, *asked, whole=whole, place=place)]
    except refusals as error:
        if len(models) == 1:
            return [error]
    found: list[NetworkCost | Mbv3cError] = []
    half = len(models) // 2
    for part in (models[:half], models[half:]):
        found += costs_or_refusals(part, *asked, whole=whole, place=place, refusals=refusals)
    return found


def time_resource(target: Target, precision: Precision, place: Place | None = None) -> str:
    """Return the name of the resource that stands for time on a target.

    It is "cycles" of NPUs and GPUs, "instructions" of an emulated CPU, "us" of a measured one and
    of a device.

    Raises:
        UsageError: the device does not compute in the precision, or nothing here tells costs.
    """
    return _coster(target, precision, place).time


def measured_on(target: Target, precision: Precision, place: Place | None) -> str:
    """Return on which device costs are measured, as it describes itself; empty without a `place`.

    Raises:
        UsageError: nothing here measures the target on a device, or this one is another's.
        ToolError: the device does not answer.
    """
    if place is None:
        return ""
    return _coster(target, precision, place).context.versions[DEVICE]


@lru_cache(maxsize=8)
def _coster(target: Target, precision: Precision, place: Place | None) -> Coster:
    """Return what tells costs; it remembers what networks of one structure have in common."""
    backend = backend_of(target)
    backend.check_precision(target, precision)
    return backend.coster(target, precision, place)
