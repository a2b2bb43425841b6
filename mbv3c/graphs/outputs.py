"""What the outputs of a model hold: which axis has the classes, and whether they are detections.

The graphs that `build` writes say so in their metadata: `mbv3c.class_axes` is
`{"boxes": null, "scores": 2}`, `mbv3c.detector` is `{"boxes": "boxes", "scores": "scores"}`. Where
the first is missing, a rule decides by the shape; without the second a model is no detector. A
model may name its classes in `mbv3c.class_names` or `class_names`: `["cat", "dog"]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import ModelError

CLASS_AXES = "class_axes"
DETECTOR = "detector"
CLASS_NAMES = ("mbv3c.class_names", "class_names")

_BOX = 4  # coordinates


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
    entry = metadata_of(model).get(f"mbv3c.{CLASS_AXES}", "{}")
    names = [output.name for output in model.graph.output]
    ranks = {name: len(shape) for name, shape in zip(names, shapes, strict=True)}
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
        declared.get(output.name, class_axis(shape) if _is_of_floats(output) else None)
        for output, shape in zip(model.graph.output, shapes, strict=True)
    ]


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
    key = next((name for name in CLASS_NAMES if name in metadata), None)
    if key is None:
        return None
    names = _parsed(metadata[key])
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(names) != count or len(set(names)) != count:
        raise ModelError(
            f"the model's metadata {key} is not a JSON list of {count} different names, one for "
            "each class; remove that entry or correct it"
        )
    return tuple(names)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model by key."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _parsed(entry: str) -> Any:
    """Return what an entry says in JSON; None if it is none."""
    try:
        return parse_json(entry)
    except Refused:
        return None
