"""What the outputs of a bundle mean: classes, boxes, or a map of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import onnx

from mbv3c.ends.ends import ends_of
from mbv3c.errors import UsageError
from mbv3c.graphs.load import dtype_of, fixed_shape, model_inputs, static_shape
from mbv3c.graphs.outputs import (
    CLASS_AXES,
    Output,
    axes_of,
    check_labels,
    class_count,
    class_names,
    detector_outputs,
    metadata_of,
)
from mbv3c.manifest import Manifest

Kind = Literal["best classes", "scores", "boxes", "map of scores", "map of classes", "numbers"]

_COLOURS = 3  # a map of so many channels may be a picture


@dataclass(frozen=True)
class Meaning:
    """What outputs mean.

    Attributes:
        kind: what they are; `numbers` is anything else.
        names: names of the classes, by index; empty without.
        output: index of the output that decides.
        axis: axis of its classes.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    output: int = 0
    axis: int = 1

    @property
    def is_known(self) -> bool:
        return self.kind != "numbers"

    @property
    def is_map(self) -> bool:
        return self.kind in ("map of scores", "map of classes")

    def name_of(self, index: int) -> str:
        """Return the name of a class; empty without."""
        return self.names[index] if 0 <= index < len(self.names) else ""

    def called(self, index: int) -> str:
        """Return what a class is called for a reader."""
        return self.name_of(index) or f"class {index}"


def meaning_of(manifest: Manifest, labels: Sequence[str] = ()) -> Meaning:
    """Say what the outputs of a bundle mean.

    Args:
        manifest: what the bundle says of itself.
        labels: names of the classes, in the place of the bundle's own.

    Raises:
        UsageError: there is not one label for each class.
        ModelError: the metadata are damaged.
    """
    outputs = [
        Output(one.name, one.shape, np.dtype(one.dtype).kind == "f") for one in manifest.outputs
    ]
    return _meaning(manifest.model.metadata, outputs, manifest.input.shape, labels)


def meaning_of_model(model: onnx.ModelProto, labels: Sequence[str] = ()) -> Meaning:
    """Say what the outputs of a model that was not compiled mean, as `meaning_of` does.

    An output of an unknown shape is numbers.

    Raises:
        UsageError: there is not one label for each class.
        ModelError: the metadata are damaged, or the input's shape is not fixed.
    """
    outputs = [
        Output(value.name, static_shape(value) or (), dtype_of(value).kind == "f")
        for value in model.graph.output
    ]
    return _meaning(metadata_of(model), outputs, fixed_shape(model_inputs(model)[0]), labels)


def _meaning(
    metadata: Mapping[str, str],
    outputs: Sequence[Output],
    shape: Sequence[int],
    labels: Sequence[str],
) -> Meaning:
    """Say what outputs mean, by metadata and the shape of the first input."""
    if labels:
        check_labels(labels, metadata, outputs)
    count = class_count(metadata, outputs)
    own = () if count is None else class_names(metadata, count)
    names = tuple(labels) or own or ends_of(metadata).labels
    if ends_of(metadata).outputs.top:
        return Meaning("best classes", names)
    if detector_outputs(metadata, [output.name for output in outputs]) is not None:
        return Meaning("boxes", names)
    batch = shape[0] if shape else 1
    return _by_shape(metadata, outputs, names, batch)


def _by_shape(
    metadata: Mapping[str, str], outputs: Sequence[Output], names: tuple[str, ...], batch: int
) -> Meaning:
    axes = axes_of(metadata, outputs)
    rows = [
        index
        for index, (output, axis) in enumerate(zip(outputs, axes, strict=True))
        if axis is not None and prod(output.shape) == batch * output.shape[axis]
    ]
    if len(rows) == 1:
        return Meaning("scores", names, rows[0], axes[rows[0]] or 0)
    declared = f"mbv3c.{CLASS_AXES}" in metadata or bool(names)
    for index, (output, axis) in enumerate(zip(outputs, axes, strict=True)):
        if axis is not None and len(output.shape) == 4:
            channels = output.shape[axis]
            if channels > 1 and (declared or channels != _COLOURS):
                return Meaning("map of scores", names, index, axis)
        if not output.floats and _is_map(output.shape):
            return Meaning("map of classes", names, index)
    return Meaning("numbers", names)


def _is_map(shape: tuple[int, ...]) -> bool:
    """Say whether whole numbers of a shape lie side by side: N, H, W or N, 1, H, W."""
    wide = min(shape[-2:], default=1) > 1
    return wide and (len(shape) == 3 or (len(shape) == 4 and shape[1] == 1))


def check_top(top: int | None, meaning: Meaning) -> None:
    """Make sure that there are so many best classes.

    Raises:
        UsageError: the number makes no sense, or the outputs hold no classes.
    """
    if top is None:
        return
    if top < 1:
        raise UsageError(f"--top {top} shows nothing; take 1 or more, such as --top 5")
    if not meaning.is_known:
        raise UsageError(
            "--top is for class scores, boxes and maps of classes, and the outputs are none of "
            "these: leave it out"
        )
