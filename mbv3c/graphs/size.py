"""How large a model may be: ONNX's tools pass it on as one message, of 2 GiB at most."""

from collections.abc import Iterable
from math import prod

import onnx
from onnx import helper

from mbv3c.errors import ModelError

# Protobuf's limit, less what inferred shapes and changed names may add.
MOST_BYTES = 2**31 - 2**24
_GIB = 2**30


def check_size(size: int, what: str) -> None:
    """Refuse a model of so many bytes if it is too large.

    Raises:
        ModelError: it is.
    """
    if size > MOST_BYTES:
        raise ModelError(
            f"{what} holds {size / _GIB:.1f} GiB, and ONNX's tools take 2 GiB at most; mbv3c "
            "compiles networks for edge devices: export a smaller one, or a part of this one"
        )


def stored_bytes(tensors: Iterable[onnx.TensorProto]) -> int:
    """Return the bytes of tensors, by their shapes and types."""
    return sum(prod(tensor.dims) * _item_bytes(tensor.data_type) for tensor in tensors)


def _item_bytes(kind: int) -> int:
    try:
        return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):  # no type of numbers
        return 0
