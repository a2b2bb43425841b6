"""Read a user's ONNX file, and refuse early and clearly what cannot be compiled."""

import logging
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, shape_inference
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    uses_external_data,
)

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.batch import forget_shapes, set_batch
from mbv3c.graphs.inference_mode import inference_mode

_log = logging.getLogger(__name__)


def load_model(
    path: Path, input_shape: Sequence[int] | None = None, batch: int | None = None
) -> onnx.ModelProto:
    """Read, complete and check a model.

    External data is read in, and `input_shape` (if given) replaces the shape of the input; the
    outputs' shapes follow. `batch` (if given) replaces the input's first dimension, and the batch
    that nodes have built in, where that is sound. A model in training mode is read in inference
    mode, with a warning. The graph must have one fp32 input of a fixed shape and fp32 outputs.

    Raises:
        UsageError: there is no such file, or `input_shape` or `batch` do not suit the input.
        ModelError: the file is no ONNX model, is damaged or incomplete, or has other inputs or
            outputs than required above.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"{path} is not an ONNX model, or it is cut short ({error}); export it again"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model, or it is empty: it holds no graph")
    if not model.graph.output:
        raise ModelError(f"{path} has no outputs: name at least one in the export")
    _load_external_data(model, path)
    model, trained = inference_mode(model)
    if trained:
        _log.warning(
            "%s is in training mode (%d nodes); it is read in inference mode, with the statistics "
            "that training left",
            path,
            len(trained),
        )
    if batch is not None:
        input_shape = set_batch(model, model_input(model), batch, input_shape)
    _set_input_shape(model, path, input_shape)
    try:
        shapeless = any(not y.type.tensor_type.HasField("shape") for y in model.graph.output)
        if input_shape is not None or shapeless:
            inferred = shape_inference.infer_shapes(model, strict_mode=not shapeless)
            for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
                output.CopyFrom(known)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {error}") from error
    _check_outputs(model, path)
    return model


def model_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the one input that is not an initialiser.

    Raises:
        ModelError: the model has no input, or more than one.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [
        value for value in model.graph.input if value.name not in stored
    ]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(
            f"the model has {len(inputs)} inputs ({names}); mbv3c compiles models with one image "
            "input: make the others constants before the export"
        )
    return inputs[0]


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of an input or output, or None if a dimension is not fixed."""
    dims = value.type.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def _check_outputs(model: onnx.ModelProto, path: Path) -> None:
    kinds = {output.name: _kind(output) for output in model.graph.output}
    wrong = [f"{name!r} is {kind}" for name, kind in kinds.items() if kind != "FLOAT"]
    if wrong:
        raise ModelError(
            f"{path}: output {', '.join(wrong)}; mbv3c compiles models with fp32 outputs: leave "
            "the others out of the export"
        )


def _kind(value: onnx.ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return "no tensor"
    name: str = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    return name


def _set_input_shape(
    model: onnx.ModelProto, path: Path, input_shape: Sequence[int] | None
) -> None:
    value = model_input(model)
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        dtype = TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(
            f"{path}: input {value.name!r} is {dtype}; mbv3c compiles models with an fp32 input"
        )
    dims = tensor.shape.dim
    if input_shape is not None:
        if len(dims) != len(input_shape):
            raise UsageError(
                f"--input-shape has {len(input_shape)} dimensions, input {value.name!r} has "
                f"{len(dims)}"
            )
        for dim, size in zip(dims, input_shape, strict=True):
            dim.dim_value = size
        forget_shapes(model.graph)
    if static_shape(value) is None:
        shown = ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in dims)
        raise ModelError(
            f"{path}: input {value.name!r} has the dynamic shape ({shown}); fix it with "
            "--input-shape, for example --input-shape 1,3,224,224"
        )


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent
    wanted: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            end = (info.offset or 0) + (info.length or 0)
            wanted[info.location] = max(wanted.get(info.location, 0), end)
    missing = [
        f"{folder / name} (missing)" if not (folder / name).is_file() else f"{name} (cut short)"
        for name, size in wanted.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size < size
    ]
    if missing:
        raise ModelError(
            f"the weights of {path} lie in files beside it: {', '.join(missing)}; put them there"
        )
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the external data of {path} cannot be read: {error}") from error


def input_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the fixed shape of a model's input.

    Raises:
        ModelError: the shape is dynamic.
    """
    shape = static_shape(model_input(model))
    if shape is None:
        raise ModelError("the model's input has a dynamic shape; fix it with --input-shape")
    return shape
