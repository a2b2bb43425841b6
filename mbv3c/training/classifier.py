"""What of a model training looks at: its image, its class scores, and the classes' names."""

import json
from math import prod

import onnx
from onnx import TensorProto

from mbv3c.accuracy.image_sets import Classes
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.batch import set_batch
from mbv3c.graphs.load import input_shape_of, model_input, static_shape, with_shapes
from mbv3c.graphs.outputs import CLASS_NAMES, class_axes, class_names, metadata_of
from mbv3c.quantization.images import Preprocessing, as_metadata

_OTHER_HEADS = {"lraspp": "segments", "raspp": "segments", "ssdlite": "finds objects"}


def classes_in(model: onnx.ModelProto) -> Classes:
    """Return the classes of a model that gives one row of class scores per image.

    Raises:
        UsageError: the model takes something else than one image of floats, or gives something
            else than such rows.
        ModelError: the metadata are damaged.
    """
    head = metadata_of(model).get("mbv3c.head", "")
    if head in _OTHER_HEADS:
        raise UsageError(
            f"train is for classifiers, and this model {_OTHER_HEADS[head]} (head {head}); train "
            "it where it comes from, and compile the result"
        )
    image = model_input(model)
    if image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(
            f"train is for models whose image is of fp32, and {image.name!r} is of another type; "
            "train the model before it takes frames or is made smaller"
        )
    shapes = [static_shape(output) or () for output in model.graph.output]
    axes = class_axes(model, shapes)
    batch = input_shape_of(model)[0]
    if len(shapes) != 1 or axes[0] is None or prod(shapes[0]) != batch * shapes[0][axes[0]]:
        listed = ", ".join(
            f"{output.name} {shape}"
            for output, shape in zip(model.graph.output, shapes, strict=True)
        )
        raise UsageError(
            f"train is for models with one row of class scores per image; this gives {listed}"
        )
    count = shapes[0][axes[0]]
    return Classes(count, class_names(metadata_of(model), count))


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return a model that takes so many images at once.

    Raises:
        ModelError: a node has another batch built in.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        shape = set_batch(copy, model_input(copy), batch, None)
    except ModelError as error:
        why = str(error).partition(": ")[2]
        raise ModelError(f"the model cannot take {batch} images at once: {why}") from error
    return copy if shape is None else with_shapes(copy, list(shape))


def trained_metadata(prepared: Preprocessing, names: tuple[str, ...] | None) -> dict[str, str]:
    """Return what a trained model says of its images and classes.

    Args:
        prepared: how the images are prepared.
        names: names of the classes; None if they have none.
    """
    # What said that the weights are made up, and where they came from, is no longer true.
    gone = dict.fromkeys(("mbv3c.seed", "mbv3c.weights"), "")
    named = (
        {}
        if names is None
        else {**dict.fromkeys(CLASS_NAMES, ""), CLASS_NAMES[0]: json.dumps(names)}
    )
    return {**gone, **as_metadata(prepared), **named}
