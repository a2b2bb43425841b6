"""Where the class scores of a bundle are, one row of them per image."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from mbv3c.ends.ends import ends_of
from mbv3c.errors import UsageError
from mbv3c.feeds import Array
from mbv3c.graphs.outputs import CLASSES, Output, axes_of
from mbv3c.manifest import Manifest

MISSING = float(np.finfo(np.float64).min)  # the score of a class of which none is known


@dataclass(frozen=True)
class Scores:
    """Where a model's class scores are.

    Attributes:
        output: index of the output with the scores.
        axis: axis of the classes; all other axes together are the batch.
        classes: index of the output with the numbers of the classes that have the scores; None
            where all classes have one.
        count: number of all classes, where only some have a score.
    """

    output: int
    axis: int
    classes: int | None = None
    count: int = 0

    def of(self, outputs: list[Array]) -> Array:
        """Return one row of scores per image of the batch; where one is missing, `MISSING`."""
        scores = np.moveaxis(outputs[self.output], self.axis, -1)
        rows = scores.reshape(-1, scores.shape[-1])
        if self.classes is None:
            return rows
        every = np.full((len(rows), self.count), MISSING, np.float64)
        np.put_along_axis(every, outputs[self.classes].reshape(rows.shape), rows, axis=1)
        return every


def class_scores(manifest: Manifest, path: Path) -> tuple[Scores, int]:
    """Find the output with one row of class scores per image, and how many classes it has.

    Args:
        manifest: what the bundle says of itself.
        path: the bundle, for the message.

    Raises:
        UsageError: there is none, or several.
    """
    metadata = manifest.model.metadata
    if ends_of(metadata).outputs.top and metadata.get(CLASSES, "").isdecimal():
        return Scores(0, 1, 1, count := int(metadata[CLASSES])), count
    outputs = [
        Output(one.name, one.shape, np.dtype(one.dtype).kind == "f") for one in manifest.outputs
    ]
    batch = manifest.input.shape[0]
    candidates = [
        (Scores(index, axis), output.shape[axis])
        for index, (axis, output) in enumerate(
            zip(axes_of(metadata, outputs), outputs, strict=True)
        )
        if axis is not None and prod(output.shape) == batch * output.shape[axis]
    ]
    if len(candidates) != 1:
        listed = ", ".join(f"{output.name} {output.shape}" for output in outputs)
        raise UsageError(
            f"--images is for models that give one row of class scores per image; {path} gives "
            f"{listed}: verify it without --images"
        )
    return candidates[0]
