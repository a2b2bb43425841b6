"""What training tells while it goes on, and what comes out."""

from dataclasses import dataclass

import onnx

from mbv3c.training.evaluate import Accuracy


@dataclass(frozen=True)
class TrainStep:
    """What is told after each step.

    Attributes:
        step: number of steps that are done.
        steps: number of all steps.
        loss: loss, a moving average over the last steps.
        accuracy: share of the training images that were right before the step, averaged likewise.
        seconds_left: what the other steps will take; None while that is not known.
        checkpoint: whether all was just written to the disk.
        validation: accuracy of that checkpoint on some of the validation images.
    """

    step: int
    steps: int
    loss: float
    accuracy: float
    seconds_left: float | None
    checkpoint: bool = False
    validation: Accuracy | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model.

    Attributes:
        model: the model; its metadata say how images are prepared, and how it was trained.
        accuracy: accuracy on all validation images, by onnxruntime.
        losses: loss of each step.
    """

    model: onnx.ModelProto
    accuracy: Accuracy
    losses: tuple[float, ...]
