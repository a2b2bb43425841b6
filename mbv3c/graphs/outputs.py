"""What the outputs of a model hold: which axis has the classes, and whether they are detections.

The graphs that `build` writes say so in their metadata: `mbv3c.class_axes` is
`{"boxes": null, "scores": 2}`, `mbv3c.detector` is `{"boxes": "boxes", "scores": "scores"}`. Where
the first is missing, a rule decides by the shape; without the second a model is no detector. A
model may name its classes in `mbv3c.class_names` or `class_names`: `["cat", "dog"]`; names may
repeat.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.load import static_shape

CLASS_AXES = "class_axes"
DETECTOR = "detector"
CLASS_NAMES = ("mbv3c.class_names", "class_names")
CLASSES = "mbv3c.classes"  # their number, where the best ones are given

_BOX = 4  # coordinates
_ROWS = 2  # rank of [N, classes]


@dataclass(frozen=True)
class Output:
    """What of an output says whether it holds class scores.

    Attributes:
        name: its name.
        shape: its extents.
        floats: whether it holds floats.
    """

    name: str
    shape: tuple[int, ...]
    floats: bool = True


def class_axis(shape: Sequence[int]) -> int | None:
    """Guess from an output's shape which axis has the classes; None if it holds no scores.

    The classes come first in `(C,)`, second in `(N, C)` and `(N, C, H, W)`, and last in the scores
    of anchors or tokens, `(N, A, C)`, unless C is 4: then these are boxes.
    """
    rank = len(shape)
    if rank == 3:
        return None if shape[2] == _BOX else 2
    return {1: 0, 2: 1, 4: 1}.get(rank)


def class_axes(model: onnx.ModelProto, shapes: Sequence[Sequence[int]]) -> list[int | None]:
    """Return for each output the axis of its classes, or None where it holds no scores.

    Args:
        model: the model; an output that its metadata leave out is guessed by `class_axis`.
        shapes: shapes of the outputs, in graph order.

    Raises:
        ModelError: the metadata are damaged or do not fit the outputs.
    """
    outputs = [
        Output(value.name, tuple(shape), _is_of_floats(value))
        for value, shape in zip(model.graph.output, shapes, strict=True)
    ]
    return axes_of(metadata_of(model), outputs)


def axes_of(metadata: Mapping[str, str], outputs: Sequence[Output]) -> list[int | None]:
    """Return for each output the axis of its classes, as `class_axes` does.

    Raises:
        ModelError: the metadata are damaged or do not fit the outputs.
    """
    entry = metadata.get(f"mbv3c.{CLASS_AXES}", "{}")
    ranks = {output.name: len(output.shape) for output in outputs}
    declared = _parsed(entry)
    if not isinstance(declared, dict) or not all(
        axis is None or (type(axis) is int and 0 <= axis < ranks.get(name, 0))
        for name, axis in declared.items()
    ):
        raise ModelError(
            f"the model's metadata mbv3c.{CLASS_AXES} is {entry!r}, which does not fit its "
            "outputs; remove that entry or correct it"
        )
    return [
        declared.get(output.name, class_axis(output.shape) if output.floats else None)
        for output in outputs
    ]


def class_count(metadata: Mapping[str, str], outputs: Sequence[Output]) -> int | None:
    """Return how many classes a model knows; None where no output, or several, say that.

    Raises:
        ModelError: the metadata are damaged or do not fit the outputs.
    """
    if metadata.get(CLASSES, "").isdecimal():
        return int(metadata[CLASSES])
    detector = detector_outputs(metadata, [output.name for output in outputs])
    if detector is not None:
        return next(output.shape[-1] for output in outputs if output.name == detector[1])
    counts = {
        output.shape[axis]
        for output, axis in zip(outputs, axes_of(metadata, outputs), strict=True)
        if axis is not None
    }
    if not counts and len(outputs) == 1 and len(outputs[0].shape) == _ROWS:
        return outputs[0].shape[1]  # whole numbers
    return counts.pop() if len(counts) == 1 else None


def check_labels(
    labels: Sequence[str], metadata: Mapping[str, str], outputs: Sequence[Output]
) -> None:
    """Make sure that there is a name for each class of a model.

    Raises:
        UsageError: there is not, or the model gives no class scores.
        ModelError: the metadata are damaged.
    """
    count = class_count(metadata, outputs)
    if count is None:
        listed = ", ".join(f"{output.name} {output.shape}" for output in outputs)
        raise UsageError(
            f"--labels is for a model that gives class scores; this gives {listed}: leave it out"
        )
    if len(labels) != count:
        raise UsageError(
            f"--labels has {len(labels)} lines, and the model has {count} classes; write one line "
            "for each class, in their order"
        )


def with_class_names(model: onnx.ModelProto, labels: Sequence[str]) -> onnx.ModelProto:
    """Return a copy whose metadata name its classes; without labels the model as it is.

    Raises:
        UsageError: there is not one label for each class, or the model gives no class scores.
        ModelError: the metadata are damaged.
    """
    if not labels:
        return model
    outputs = [
        Output(value.name, static_shape(value) or (), _is_of_floats(value))
        for value in model.graph.output
    ]
    check_labels(labels, metadata_of(model), outputs)
    gone = dict.fromkeys(CLASS_NAMES, "")
    return with_metadata(model, {**gone, CLASS_NAMES[0]: json.dumps(list(labels))})


def _is_of_floats(value: onnx.ValueInfoProto) -> bool:
    """Say whether a tensor holds floats; a type that is not known may be one."""
    kind = value.type.tensor_type.elem_type
    return kind in (0, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def detector_outputs(metadata: Mapping[str, str], names: Sequence[str]) -> tuple[str, str] | None:
    """Return the names of a detector's boxes and scores; None for any other model.

    Args:
        metadata: metadata of the model.
        names: names of the model's outputs.

    Raises:
        ModelError: the metadata name outputs that the model does not have.
    """
    entry = metadata.get(f"mbv3c.{DETECTOR}")
    if entry is None:
        return None
    declared = _parsed(entry)
    roles = [declared.get(role) for role in ("boxes", "scores")] if declared else []
    if len(roles) != 2 or not set(roles) <= set(names):
        raise ModelError(
            f"the model's metadata mbv3c.{DETECTOR} is {entry!r}, which does not fit its outputs; "
            "remove that entry or correct it"
        )
    return roles[0], roles[1]


def class_names(metadata: Mapping[str, str], count: int) -> tuple[str, ...] | None:
    """Return the names of a model's classes; None if its metadata have none.

    Raises:
        ModelError: the metadata are damaged, or name another number of classes than `count`.
    """
    key = _named_by(metadata)
    if key is None:
        return None
    names = names_in(metadata)
    if names is None or len(names) != count:
        raise ModelError(
            f"the model's metadata {key} is not a JSON list of {count} names, one for each class; "
            "remove that entry or correct it"
        )
    return names


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the names of classes, however many there are; None where no list of them is."""
    key = _named_by(metadata)
    names = None if key is None else _parsed(metadata[key])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _named_by(metadata: Mapping[str, str]) -> str | None:
    return next((name for name in CLASS_NAMES if name in metadata), None)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model by key."""
    return {entry.key: entry.value for entry in model.metadata_props}


def with_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> onnx.ModelProto:
    """Return a copy of a model with other metadata; an empty text leaves an entry out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    for key, value in {**metadata_of(model), **entries}.items():
        if value:
            copy.metadata_props.add(key=key, value=value)
    return copy


def _parsed(entry: str) -> Any:
    """Return what an entry says in JSON; None if it is none."""
    try:
        return parse_json(entry)
    except Refused:
        return None
