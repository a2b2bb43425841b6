"""Train a classifier."""

from collections.abc import Callable
from pathlib import Path

import onnx

from mbv3c.errors import ToolError
from mbv3c.training.examples import Examples
from mbv3c.training.plan import TrainPlan
from mbv3c.training.results import Trained as Trained
from mbv3c.training.results import TrainStep as TrainStep
from mbv3c.training.torch_package import TORCH_REMEDY, torch_package


def train(
    model: onnx.ModelProto,
    examples: Examples,
    plan: TrainPlan,
    *,
    journal: Path | None = None,
    progress: Callable[[TrainStep], None] = lambda step: None,
) -> Trained:
    """Train a model.

    A model, images and a plan give the same weights every time, on a machine with the same
    processor and the same versions, whether training is interrupted or not.

    Args:
        model: a classifier, with BatchNormalization or without. It is not changed.
        examples: images for its input.
        plan: how to train.
        journal: folder in which the state is kept; a training that was interrupted goes on from
            there. `checkpoint.onnx` in it is the model as it was then. The caller removes it.
        progress: function that is told each step.

    Raises:
        ToolError: torch is missing, or has no such device.
        UsageError: the journal belongs to another training, or another process has it; or the
            images are for another model.
        ModelError: an operator of the model cannot be trained, or it has no weights.
        Mbv3cError: the loss is no longer a number.
        BundleError: the journal cannot be written.
    """
    require_torch()
    from mbv3c.training.loop import run

    return run(model, examples, plan, journal, progress)


def require_torch() -> None:
    """Make sure that there is torch, before work begins that would be lost.

    Raises:
        ToolError: there is none.
    """
    if torch_package() is None:
        raise ToolError(f"training takes PyTorch, which is not installed: {TORCH_REMEDY}")
