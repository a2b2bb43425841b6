"""Functions that find a network: they train it, and set networks beside each other.

They are part of `mbv3c.api`.
"""

from collections.abc import Callable
from pathlib import Path

import onnx

from mbv3c.graphs.load import load_model
from mbv3c.jobs.cluster.where import Where
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.search import grid as grids
from mbv3c.search import sweep as sweeping
from mbv3c.training import train as training
from mbv3c.training.examples import open_examples
from mbv3c.training.plan import TrainPlan
from mbv3c.training.results import Trained, TrainStep

__all__ = ["Trained", "sweep", "train"]


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
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(Path(model))
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
