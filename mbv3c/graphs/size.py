"""How large a model may be: ONNX's tools pass it on as one message, of 2 GiB at most."""

from collections.abc import Iterable

import onnx

from mbv3c.door.models import MOST_MODEL, bytes_of
from mbv3c.errors import ModelError

MOST_BYTES = MOST_MODEL
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
    return sum(map(bytes_of, tensors))
