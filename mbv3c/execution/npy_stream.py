"""Arrays one after the other in a stream, each in the .npy format."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.execution.runners import Tensor

_MAGIC = 8  # bytes: the magic string and the version
_LENGTH = 2  # of the header's length, in version 1, which is what numpy writes for plain arrays


def written(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a .npy file, in C order."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array, order="C"), version=(1, 0))
    return stream.getvalue()


def read_array(stream: io.BufferedReader) -> Tensor | None:
    """Read the next .npy array of fp32 from a stream; None where the stream ends before one.

    Raises:
        EOFError: it ends within an array.
        ValueError: what comes is no such array.
    """
    start = stream.read(_MAGIC + _LENGTH)
    if not start:
        return None
    if len(start) < _MAGIC + _LENGTH:
        raise EOFError("the stream ends within the header of an array")
    if np.lib.format.read_magic(io.BytesIO(start)) != (1, 0):
        raise ValueError("an array of another version than 1.0 of .npy")
    length = int.from_bytes(start[_MAGIC:], "little")
    text = io.BytesIO(start[_MAGIC:] + stream.read(length))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(text)
    if fortran or dtype != np.float32:
        raise ValueError(f"an array of {dtype}, not of float32 in C order")
    array = np.empty(shape, np.float32)
    if array.size and stream.readinto(array.data.cast("B")) != array.nbytes:
        raise EOFError("the stream ends within an array")
    return array
