"""Weights of a model, read from and written to files: safetensors, .npz, .pt, .pth, ONNX.

Weights are the initialisers that Conv, Gemm, MatMul and BatchNormalization take besides their
input. The constants of activations are no weights.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors
from numpy.lib import format as npy
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save

from mbv3c.door.archives import open_zip
from mbv3c.door.arrays import array_in
from mbv3c.door.files import Refused, read_plain
from mbv3c.door.models import check_model, load_outside, parse_model
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.weights.names import name_map
from mbv3c.graphs.weights.torch_file import read_torch

Array = NDArray[Any]

# A MobileNetV3 in fp64 has under 100 MiB; a training checkpoint a few times that.
_LARGEST = 1 << 30

_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
}

_ONNX_ERRORS = (OSError, ValueError, TypeError, KeyError, onnx.checker.ValidationError)


def read_tensors(
    path: Path, weights_of: Callable[[onnx.ModelProto], dict[str, Array]]
) -> dict[str, Array]:
    """Read the tensors of a file; its content tells the format.

    bf16 comes as fp32, everything else as it is stored. `weights_of` picks the weights of an
    ONNX model. Arrays may be read-only.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ModelError: the file is damaged, too large, or of no known format.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        data = read_plain(path, _LARGEST)
    except Refused as error:
        raise ModelError(f"{path} cannot hold the weights of a MobileNetV3: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if data[:2] == b"PK":
        return _read_zip(path, data)
    if data[4:9] == b"\0\0\0\0{":  # its header's length in 8 bytes, and the header
        return _read_safetensors(path, data)
    if data[:1] == b"\x80" or data[257:262] == b"ustar":
        raise ModelError(
            f"{path} is a pickle, or a .pt from before torch 1.6, which mbv3c does not read; "
            "convert it: torch.save(torch.load(FILE, weights_only=True), NEW_FILE)"
        )
    return _read_onnx(path, weights_of)


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    """Write tensors as safetensors."""
    path.write_bytes(save({name: np.ascontiguousarray(a) for name, a in tensors.items()}))


def write_npz(path: Path, tensors: dict[str, Array]) -> None:
    """Write tensors as an uncompressed .npz that holds no time stamps."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in tensors.items():
            entry = io.BytesIO()
            npy.write_array(entry, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())


def _read_safetensors(path: Path, data: bytes) -> dict[str, Array]:
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is a damaged safetensors file: {error}") from error
    tensors: dict[str, Array] = {}
    for name, entry in entries:
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ModelError(f"{path}: {name!r} is {entry['dtype']}, which mbv3c does not read")
        array = np.frombuffer(entry["data"], dtype)
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        try:
            tensors[name] = array.reshape(entry["shape"])
        except ValueError as error:
            raise ModelError(f"{path} is a damaged safetensors file: {error}") from error
    return tensors


def _read_zip(path: Path, data: bytes) -> dict[str, Array]:
    try:
        with open_zip(io.BytesIO(data), _LARGEST) as archive:
            content = {
                name: archive.read(name) for name in archive.namelist() if not name.endswith("/")
            }
    except Refused as error:
        raise ModelError(f"{path}: {error}") from error
    if any(name.endswith("/data.pkl") for name in content):
        return read_torch(path, content)
    if content and all(name.endswith(".npy") for name in content):
        return {
            name.removesuffix(".npy"): _read_npy(path, name, entry)
            for name, entry in content.items()
        }
    raise ModelError(f"{path} is a zip archive, but neither a .npz nor a state dict of torch")


def _read_npy(path: Path, name: str, data: bytes) -> Array:
    try:
        return array_in(data, kinds="biuf")
    except Refused as error:
        raise ModelError(f"{path}: the entry {name!r} is damaged: {error}") from error


def _read_onnx(
    path: Path, weights_of: Callable[[onnx.ModelProto], dict[str, Array]]
) -> dict[str, Array]:
    try:
        model = parse_model(path)
    except Refused as error:
        raise _unknown(path) from error
    if not model.graph.node:
        raise _unknown(path)
    try:
        check_model(model)
        load_outside(model, path)
        return weights_of(model)
    except _ONNX_ERRORS as error:
        raise ModelError(f"the weights of {path} cannot be read: {error}") from error


def _unknown(path: Path) -> ModelError:
    return ModelError(
        f"{path} is neither safetensors, .npz, a state dict of torch (.pt, .pth) nor ONNX, or it "
        "is damaged or cut short"
    )


_WEIGHTED = {"Conv", "Gemm", "MatMul", "BatchNormalization"}
_CONVERTED = {"float32", "float16", "bfloat16", "float64"}
_WRITERS = {".safetensors": write_safetensors, ".npz": write_npz}


def load_weights(model: onnx.ModelProto, path: Path) -> None:
    """Replace every weight of a built model, in place, by those of a file.

    The file is a state dict (safetensors, .pt, .pth, .npz) of torchvision's or timm's MobileNetV3
    or torchvision's LR-ASPP or SSDLite, one with this project's names, or an ONNX model whose
    weights carry any of these names. The content tells which; the suffix does not matter. fp16,
    bf16 and fp64 become fp32. A Linear weight `(n, m)` and a 1x1 convolution's `(n, m, 1, 1)`
    stand for each other. `num_batches_tracked` is ignored. Nothing in a file is executed.

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
        f"extra: {name if name.isprintable() else repr(name)} {array.shape}"
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

    Equal weights give equal bytes.

    Raises:
        UsageError: the suffix is neither.
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
