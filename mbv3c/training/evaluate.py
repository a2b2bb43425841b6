"""How often a classifier is right, by onnxruntime."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.accuracy.tally import Interval, wilson
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.load import input_shape_of, model_input
from mbv3c.parity.running import OPTIMIZED, session
from mbv3c.training.classifier import classes_in, with_batch
from mbv3c.training.examples import Examples, PartName

_BATCH = 50  # images at once


@dataclass(frozen=True, eq=False)
class Accuracy:
    """How often a classifier is right.

    Attributes:
        right: for each image, in the order of its part, whether its class has the highest score.
    """

    right: NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Share of images on which the classifier is right."""
        return float(self.right.mean())

    @property
    def interval(self) -> Interval:
        """That share with Wilson's 95 % interval."""
        return wilson(int(self.right.sum()), len(self.right))

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {**asdict(self.interval), "count": int(self.right.sum()), "of": len(self.right)}


def evaluate(
    model: onnx.ModelProto, examples: Examples, part: PartName, *, limit: int | None = None
) -> Accuracy:
    """Run a part of the images through onnxruntime.

    Args:
        model: a classifier, in fp32 or quantized.
        examples: images for its input.
        part: name of the part.
        limit: number of images to take, evenly from all of the part; None for all.

    Raises:
        UsageError: there is no such part, or the images are for another model.
    """
    classes, shape = classes_in(model), input_shape_of(model)
    prepared = examples.preprocessing
    size = (prepared.height, prepared.width)
    if (shape[1:3] if prepared.channels_last else shape[2:]) != size:
        raise UsageError(f"the images are prepared for {size[0]}x{size[1]}, the model is not")
    if classes.count != examples.classes.count:
        raise UsageError(
            f"the images have {examples.classes.count} classes, the model {classes.count}"
        )
    labels = examples.labels(part)
    places = examples.evenly(part, limit)
    model, batch = _batched(model, min(_BATCH, len(places)), shape[0])
    name, opened = model_input(model).name, session(model, OPTIMIZED[-1])
    best = []
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        filled = np.concatenate([chosen, np.repeat(chosen[-1:], batch - len(chosen))])
        (scores,) = opened.run(None, {name: examples.inputs(part, filled)})
        best.append(scores.reshape(batch, classes.count).argmax(axis=1)[: len(chosen)])
    return Accuracy(np.concatenate(best) == labels[places])


def _batched(model: onnx.ModelProto, wanted: int, own: int) -> tuple[onnx.ModelProto, int]:
    """Return the model for a batch, or as it is where it has its own built in."""
    try:
        return with_batch(model, wanted), wanted
    except ModelError:
        return model, own
