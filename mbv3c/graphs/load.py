"""Read a user's ONNX file, and refuse early and clearly what cannot be compiled."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from mbv3c.door.files import Refused
from mbv3c.door.formats import check_model_file
from mbv3c.door.growth import check_growth
from mbv3c.door.models import check_model, load_outside, parse_model
from mbv3c.errors import ModelError, UsageError
from mbv3c.feeds import shape_text
from mbv3c.graphs.batch import forget_shapes, set_batch
from mbv3c.graphs.inference_mode import inference_mode
from mbv3c.graphs.input_shapes import InputShape, fix_shapes
from mbv3c.graphs.size import check_size
from mbv3c.steps import step

_log = logging.getLogger(__name__)

_IR_WITH_CONSTANTS = 4  # before, every initialiser is an input, too
_NUMBERS = frozenset(
    {
        *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL),
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    }
)


class ShapeError(ModelError):
    """An input has no fixed shape; `--input-shape` gives it one."""


def load_model(
    path: Path, input_shape: InputShape | None = None, batch: int | None = None
) -> onnx.ModelProto:
    """Read, complete and check a model.

    External data is read in, and `input_shape` (if given) replaces the shape of the input, or
    those of several inputs by their names; the outputs' shapes follow. `batch` (if given) replaces
    the first dimension of the only input, and the batch that nodes have built in, where that is
    sound. A model in training mode is read in inference mode, with a warning. The graph must have
    inputs of fixed shapes, and inputs and outputs must be tensors of numbers.

    Raises:
        UsageError: there is no such file, or `input_shape` or `batch` do not suit the input.
        ModelError: the file is no ONNX model, is damaged or incomplete, or has other inputs or
            outputs than required above.
    """
    check_model_file(path)
    check_size(path.stat().st_size, str(path))
    try:
        with step(f"reading {path}", "onnx", lambda: path.stat().st_size):
            model = parse_model(path)
    except Refused as error:
        raise ModelError(
            f"{path} is not an ONNX model, or not a whole one: {error}; export it again"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model, or it is empty: it holds no graph")
    model.graph.name = model.graph.name or "graph"  # onnx asks for one, onnxruntime does not
    if not model.graph.output:
        raise ModelError(f"{path} has no outputs: name at least one in the export")
    try:
        check_model(model)
        load_outside(model, path)
        check_growth(model)
    except Refused as error:
        raise ModelError(f"{path} cannot be compiled: {error}") from error
    model, trained = inference_mode(model)
    if trained:
        _log.warning(
            "%s is in training mode (%d nodes); it is read in inference mode, with the statistics "
            "that training left",
            path,
            len(trained),
        )
    if batch is not None:
        input_shape = _with_batch(model, batch, input_shape)
    _free_constants(model)
    _set_input_shapes(model, path, input_shape)
    _say_defaults(model.graph)
    try:
        _complete(model, path, reshaped=input_shape is not None)
    except _INVALID as error:
        raise ModelError(f"{path} is not a valid ONNX model: {error}") from error
    _check_outputs(model, path)
    return model


def with_shapes(model: onnx.ModelProto, input_shape: InputShape) -> onnx.ModelProto:
    """Return a model that takes inputs of other shapes; the outputs' shapes follow.

    Raises:
        UsageError: the shapes do not suit the inputs.
        ModelError: an input is left dynamic, or the model has other sizes built in.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _set_input_shapes(copy, "the model", input_shape)
    try:
        _infer_outputs(copy, reshaped=True)
    except _INVALID as error:
        text = shape_text(input_shapes_of(copy))
        raise ModelError(
            f"the model does not take inputs of the shape {text}: it has other sizes built in; "
            f"export it with dynamic axes ({str(error).strip()})"
        ) from error
    return copy


_STALE = "nferred shape and existing shape differ"
# ONNX says most in errors of its own, and some things, as a type that it does not know, in others.
_INVALID = (
    onnx.checker.ValidationError,
    shape_inference.InferenceError,
    ValueError,
    RuntimeError,
)


def _complete(model: onnx.ModelProto, path: Path, *, reshaped: bool) -> None:
    """Infer outputs, in place; where shapes that the file stores are others, without those."""
    try:
        _infer_outputs(model, reshaped=reshaped)
    except shape_inference.InferenceError as error:
        if reshaped or _STALE not in str(error):
            raise
        forget_shapes(model.graph)
        _infer_outputs(model, reshaped=True)
        _log.warning(
            "%s stores shapes that its nodes do not make (%s); what follows from the inputs holds",
            path,
            str(error).partition("]: ")[2].strip() or str(error).strip(),
        )


def _infer_outputs(model: onnx.ModelProto, *, reshaped: bool) -> None:
    """Complete the shapes of a model's outputs, in place, and check the whole."""
    shapeless = any(not y.type.tensor_type.HasField("shape") for y in model.graph.output)
    with step("inferring the shapes of the model", "onnx", model.ByteSize):
        inferred = shape_inference.infer_shapes(model, strict_mode=reshaped and not shapeless)
    if reshaped or shapeless:
        for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
            output.CopyFrom(known)
    with step("checking the model", "onnx", model.ByteSize):
        onnx.checker.check_model(model, full_check=True)
    _check_windows(inferred)


_MOST_IMAGES = 1 << 20
_WITH_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")


def _check_windows(model: onnx.ModelProto) -> None:
    """Make sure that no map is empty, and that convolutions have the channels of their weights.

    ONNX's shape inference does neither.

    Raises:
        ModelError: a node does not take the shape of its input.
    """
    shapes = {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in _WITH_WINDOWS:
            continue
        name = node.name or node.output[0]
        given, made = (shapes.get(each, []) for each in (node.input[0], node.output[0]))
        if any(size is not None and size <= 0 for size in made):
            text = "x".join("?" if size is None else str(size) for size in given)
            raise ModelError(f"{name} makes an empty map of {text}: give the input a larger shape")
        stored = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if not stored or len(given) < 2 or given[1] is None:
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if given[1] != stored[1] * groups:
            raise ModelError(
                f"{name} takes {stored[1] * groups} channels, and the shape gives it {given[1]}: "
                "write the shape as the model's, with its channels"
            )


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are no initialisers, in their order.

    Raises:
        ModelError: the model has no input.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if not inputs:
        raise ModelError(
            "the model has no input: everything in it is constant; export it with the image as an "
            "input"
        )
    return inputs


def model_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the only input of a model that takes one image.

    Raises:
        ModelError: the model has no input, or more than one.
    """
    inputs = model_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(
            f"the model has {len(inputs)} inputs ({names}), and this takes a model with one: make "
            "the others constants before the export"
        )
    return inputs[0]


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of an input or output, or None if a dimension is not fixed."""
    dims = value.type.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def _check_outputs(model: onnx.ModelProto, path: Path) -> None:
    for output in model.graph.output:
        if not _is_of_numbers(output):
            raise ModelError(
                f"{path}: output {output.name!r} is {_kind(output)}; mbv3c compiles models whose "
                "outputs are tensors of numbers: leave it out of the export"
            )


def _is_of_numbers(value: onnx.ValueInfoProto) -> bool:
    is_tensor: bool = value.type.HasField("tensor_type")
    return is_tensor and value.type.tensor_type.elem_type in _NUMBERS


def _kind(value: onnx.ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return "no tensor"
    kind: int = value.type.tensor_type.elem_type
    known: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return known.get(kind, f"of the unknown type {kind}")


def _free_constants(model: onnx.ModelProto) -> None:
    """Let initialisers that are not listed be constants, in place, as onnxruntime does."""
    listed = {value.name for value in model.graph.input}
    if model.ir_version < _IR_WITH_CONSTANTS and any(
        tensor.name not in listed for tensor in model.graph.initializer
    ):
        model.ir_version = _IR_WITH_CONSTANTS


def _say_defaults(graph: onnx.GraphProto) -> None:
    """Write out, in place, a default that onnx's checker loses when it looks into the operator."""
    for node in graph.node:
        if node.op_type == "MeanVarianceNormalization" and not node.attribute:
            node.attribute.append(helper.make_attribute("axes", [0, 2, 3]))


def _with_batch(
    model: onnx.ModelProto, batch: int, input_shape: InputShape | None
) -> InputShape | None:
    inputs = model_inputs(model)
    if batch > _MOST_IMAGES:
        raise UsageError(f"--batch {batch} is not possible: take at most {_MOST_IMAGES:,}")
    if len(inputs) > 1 or isinstance(input_shape, Mapping):
        raise UsageError(
            f"--batch {batch} is for a model with one input; give the shape of every input with "
            "--input-shape NAME:1,3,224,224 NAME:…, in quotes"
        )
    return set_batch(model, inputs[0], batch, input_shape)


def _set_input_shapes(
    model: onnx.ModelProto, path: Path | str, input_shape: InputShape | None
) -> None:
    inputs = model_inputs(model)
    for value in inputs:
        if not _is_of_numbers(value):
            raise ModelError(
                f"{path}: input {value.name!r} is {_kind(value)}; mbv3c compiles models whose "
                "inputs are tensors of numbers: make it a constant, or compute it before the model"
            )
    if input_shape is not None:
        fix_shapes(inputs, input_shape)
        forget_shapes(model.graph)
    for value in inputs:
        if static_shape(value) is None:
            dims = value.type.tensor_type.shape.dim
            if any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in dims):
                raise ShapeError(
                    f"{path}: input {value.name!r} has the shape "
                    f"({', '.join(dim.dim_param or str(dim.dim_value) for dim in dims)}), which "
                    "holds no numbers; give it a shape with --input-shape, or leave it out"
                )
            raise ShapeError(
                f"{path}: input {value.name!r} {_dynamic(value, alone=len(inputs) == 1)}"
            )


def input_shapes_of(model: onnx.ModelProto) -> tuple[tuple[int, ...], ...]:
    """Return the fixed shapes of a model's inputs, in their order.

    Raises:
        ModelError: a shape is dynamic, or there is no input.
    """
    return tuple(fixed_shape(value) for value in model_inputs(model))


def input_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the fixed shape of a model's only input.

    Raises:
        ModelError: the shape is dynamic, or there are several inputs.
    """
    return fixed_shape(model_input(model))


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """Return numpy's element type of an input."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def fixed_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape of an input.

    Raises:
        ModelError: it is dynamic.
    """
    shape = static_shape(value)
    if shape is None:
        raise ModelError(f"the input {value.name!r} {_dynamic(value)}")
    return shape


def _dynamic(value: onnx.ValueInfoProto, *, alone: bool = True) -> str:
    """Say that an input, perhaps one of several, has a dynamic shape, and how to fix it."""
    dims = value.type.tensor_type.shape.dim
    shown = ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in dims)
    sizes = (dim.dim_value or (1 if at == 0 else 224) for at, dim in enumerate(dims))
    example = ",".join(map(str, sizes))
    return (
        f"has the dynamic shape ({shown}); fix it with --input-shape, for example "
        f"--input-shape {example if alone else repr(f'{value.name}:{example}')}"
    )
