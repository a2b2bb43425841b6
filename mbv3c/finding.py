"""Functions that find a network: what it costs, training, adapting, searching, and sweeps.

They are part of `mbv3c.api`.
"""

from collections.abc import Callable
from pathlib import Path

import onnx

from mbv3c.execution.cache import cache_root
from mbv3c.execution.device.place import Place
from mbv3c.graphs.load import load_model
from mbv3c.jobs.cluster.where import Where
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.search import grid as grids
from mbv3c.search import sweep as sweeping
from mbv3c.search.adapt_run import Finishing, Outcome, adapt_model
from mbv3c.search.cost_report import CostReport, cost_report
from mbv3c.search.found import Found
from mbv3c.search.grid import Images
from mbv3c.search.halving import Halving
from mbv3c.search.plan import SearchPlan
from mbv3c.search.request import run_search
from mbv3c.search.space import Space
from mbv3c.search.specs import AdaptSpec, SearchSpec
from mbv3c.training import train as training
from mbv3c.training.examples import open_examples
from mbv3c.training.plan import TrainPlan
from mbv3c.training.results import Trained, TrainStep

__all__ = [
    "AdaptSpec",
    "Finishing",
    "Halving",
    "Images",
    "SearchPlan",
    "SearchSpec",
    "Space",
    "Trained",
    "adapt",
    "cost_of",
    "search_networks",
    "sweep",
    "train",
]


def cost_of(
    model: onnx.ModelProto | str | Path,
    target: str,
    *,
    precision: str | None = None,
    database: str | Path | None = None,
    place: Place | None = None,
    progress: Progress = lambda step: None,
) -> CostReport:
    """Find out what a model costs on a target, layer by layer, and what fewer channels save.

    Args:
        model: the model, with inputs of fixed shapes.
        target: FAMILY[:DEVICE].
        precision: name of the precision; None for the target's own.
        database: folder of what is known of costs; None for that in the cache.
        place: a device whose time is the cost; None for what is known here of the target.
        progress: told of each step.

    Raises:
        UsageError: there is no such target, or nothing here tells its costs.
        ToolError: what tells costs is not installed, or fails.
        ModelError: the model cannot be compiled.
    """
    folder = None if database is None else Path(database)
    return cost_report(_loaded(model), target, precision, folder, progress, place)


def adapt(
    model: onnx.ModelProto | str | Path,
    spec: AdaptSpec,
    journal: str | Path,
    *,
    store: str | Path | None = None,
    cluster: str | None = None,
    jobs: int = 0,
    progress: Progress = lambda step: None,
) -> Outcome:
    """Make a trained classifier fit a budget on a target, cut by cut; needs torch.

    Args:
        model: a trained classifier.
        spec: what it is to be adapted to.
        journal: folder of what was found; an interrupted adaptation goes on from there.
        store: folder of what was computed; None for that in the cache.
        cluster: as `--cluster` takes it; None for processes of this machine.
        jobs: how much to do at once; 0 for as many as there are processors.
        progress: told of each step.

    Raises:
        UsageError: something in the request makes no sense, or the journal is another's.
        ModelError: the model cannot be cut, trained or compiled.
        ToolError: something that is needed is not installed.
    """
    request = spec.request(Path(journal))
    if cluster is None:
        training.require_torch()
    known = _store(store)
    with Where(cluster, jobs).engine(known, progress) as engine:
        return adapt_model(_loaded(model), request, (engine, known), progress)


def search_networks(
    spec: SearchSpec,
    output: str | Path,
    *,
    store: str | Path | None = None,
    cluster: str | None = None,
    jobs: int = 0,
    progress: Progress = lambda step: None,
) -> Found:
    """Search for the best networks of a target and a budget, around MobileNetV3; needs torch.

    Args:
        spec: what is searched for.
        output: folder of the result and of the journal, from which an interrupted search goes on.
        store: folder of what was computed; None for that in the cache.
        cluster: as `--cluster` takes it; None for processes of this machine.
        jobs: how much to do at once; 0 for as many as there are processors.
        progress: told of each step.

    Raises:
        UsageError: something in the request makes no sense, or the folder has another search.
        Mbv3cError: nothing meets the budget, or a tool is missing or fails.
    """
    request, known = spec.request(), _store(store)
    if cluster is None:
        training.require_torch()
    with Where(cluster, jobs).engine(known, progress) as engine:
        return run_search(request, Path(output), (engine, known), progress)


def train(
    model: onnx.ModelProto | str | Path,
    data: str | Path,
    plan: TrainPlan,
    *,
    labels: str | Path | None = None,
    validation: float | str | Path = 0.1,
    journal: str | Path | None = None,
    progress: Callable[[TrainStep], None] = lambda step: None,
) -> Trained:
    """Train a classifier on labelled images; needs torch.

    Args:
        model: the model, whose metadata say how images are prepared.
        data: a folder of folders of classes, an .npz file, or a folder of IDX files.
        plan: how to train.
        labels: CSV file of the classes of a folder's images.
        validation: share of each class to validate with, or other images.
        journal: folder for the state; an interrupted training goes on from there. It is kept.
        progress: function that is told each step.

    Raises:
        ToolError: torch is missing.
        UsageError: the images are not for the model, or the journal is another training's.
        ModelError: the model cannot be trained.
    """
    loaded = _loaded(model)
    examples = open_examples(
        Path(data),
        loaded,
        labels=None if labels is None else Path(labels),
        validation=Path(validation) if isinstance(validation, str) else validation,
        seed=plan.seed,
    )
    place = None if journal is None else Path(journal)
    return training.train(loaded, examples, plan, journal=place, progress=progress)


def sweep(
    grid: grids.Grid | str | Path,
    store: str | Path,
    *,
    cluster: str | None = None,
    jobs: int = 0,
    progress: Progress = lambda step: None,
) -> sweeping.Sweep:
    """Train, cost and compile all combinations of a grid; what the store knows is not done again.

    Args:
        grid: the grid, or the path of its YAML file.
        store: folder of what was computed.
        cluster: as `--cluster` takes it; None for processes of this machine.
        jobs: how much to do at once; 0 for as many as there are processors.
        progress: told of each step.

    Raises:
        UsageError: something in the grid makes no sense.
        Mbv3cError: the cluster cannot be used.
    """
    asked = grid if isinstance(grid, grids.Grid) else grids.read_grid(Path(grid))
    known = Store(Path(store))
    with Where(cluster, jobs).engine(known, progress) as engine:
        return sweeping.sweep(asked, known, engine, progress)


def _loaded(model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else load_model(Path(model))


def _store(folder: str | Path | None) -> Store:
    return Store(cache_root() / "jobs" if folder is None else Path(folder))
