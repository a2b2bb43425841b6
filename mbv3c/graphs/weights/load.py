"""Give a built model trained weights, and write a model's weights to a file.

What counts as a weight is read off the graph: the initialisers that Conv, Gemm, MatMul and
BatchNormalization take besides their input. The constants of activations are none.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.weights.files import read_tensors, write_npz, write_safetensors
from mbv3c.graphs.weights.names import name_map

Array = NDArray[Any]

_WEIGHTED = {"Conv", "Gemm", "MatMul", "BatchNormalization"}
_CONVERTED = {"float32", "float16", "bfloat16", "float64"}
_WRITERS = {".safetensors": write_safetensors, ".npz": write_npz}


def load_weights(model: onnx.ModelProto, path: Path) -> None:
    """Replace every weight of a built model, in place, by those of a file.

    The file is a state dict (safetensors, .pt, .pth, .npz) of torchvision's or timm's MobileNetV3
    or torchvision's LR-ASPP or SSDLite, one with this project's names, or an ONNX model whose
    weights carry any of these names.
    The content tells which; the suffix does not matter. fp16, bf16 and fp64 become fp32. A Linear
    weight `(n, m)` and a 1x1 convolution's `(n, m, 1, 1)` stand for each other.
    `num_batches_tracked` is ignored. Nothing in a file is executed.

    A state dict does not hold BatchNormalization's epsilon, and the model's stays as it is:
    torchvision and timm's `tf_*` have 1e-3, timm's other `mobilenetv3_*` 1e-5 (`--bn-epsilon`).

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ModelError: the file is damaged or of no known format, or its tensors are not those of
            the model; all that are missing, extra, of another shape or type, or not finite are
            named. The model is then unchanged.
    """
    stored = {
        name: array
        for name, array in read_tensors(path, weights_of).items()
        if name.rpartition(".")[2] != "num_batches_tracked"
    }
    wanted = weights_of(model)
    convention, names = name_map(wanted, stored)
    complaints = [
        f"missing: {_pair(names[own], own)} {wanted[own].shape}"
        for own in wanted
        if names[own] not in stored
    ]
    known = set(names.values())
    complaints += [
        f"extra: {_printable(name)} {array.shape}"
        for name, array in stored.items()
        if name not in known
    ]
    loaded: dict[str, NDArray[np.float32]] = {}
    for own, weight in wanted.items():
        array = stored.get(names[own])
        if array is None:
            continue
        complaint = _misfit(array, weight)
        if complaint is None:
            loaded[own] = _as_float32(array).reshape(weight.shape)
            complaint = _not_finite(loaded[own])
        if complaint is not None:
            complaints.append(f"{_pair(names[own], own)} {complaint}")
    if complaints:
        listed = "\n  ".join(complaints)
        raise ModelError(
            f"the weights in {path} (read as {convention} names) are not those of "
            f"{model.graph.name}; name the variant, width and classes that the file was trained "
            f"for:\n  {listed}"
        )
    for tensor in model.graph.initializer:
        if tensor.name in loaded:
            tensor.CopyFrom(numpy_helper.from_array(loaded[tensor.name], tensor.name))


def save_weights(model: onnx.ModelProto, path: Path) -> None:
    """Write the weights of a model under their own names, as .safetensors or .npz by suffix.

    The same weights give the same bytes.

    Raises:
        UsageError: the suffix is another one.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(f"cannot write weights to {path}; name a {' or '.join(_WRITERS)} file")
    _WRITERS[path.suffix](path, weights_of(model))


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the weights of a model by name, in the order of its initialisers."""
    used = {
        name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input[1:]
    }
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in used
    }


def _misfit(array: Array, wanted: Array) -> str | None:
    if _without_trailing_ones(array.shape) != _without_trailing_ones(wanted.shape):
        return f"has the shape {array.shape}, the model needs {wanted.shape}"
    if array.dtype.name not in _CONVERTED:
        return f"is {array.dtype.name}; weights are fp32, fp16, bf16 or fp64"
    return None


def _not_finite(values: NDArray[np.float32]) -> str | None:
    count = values.size - int(np.isfinite(values).sum())
    return f"has {count} of {values.size} values that are not finite in fp32" if count else None


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    kept = list(shape)
    while kept and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _as_float32(array: Array) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a fp64 beyond fp32 becomes infinite and is then named
        return array.astype(np.float32)


def _pair(name: str, own: str) -> str:
    return own if name == own else f"{name} (here {own})"


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)
