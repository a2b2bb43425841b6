"""The process in which a bundle runs on one input after the other.

    python -m mbv3c.execution.worker KIND FOLDER

KIND is what runs it: `cpu`, `opencl` or `npu`. It reads .npy arrays from standard input until that
ends, and writes the outputs of each to standard output, as `mbv3c_run --stream` does on a board.
"""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import read_bundle

Tensor = NDArray[np.float32]

CPU, OPENCL, NPU = "cpu", "opencl", "npu"

_MAGIC = 8  # bytes: the magic string and the version
_LENGTH = 2  # of the header's length, in version 1, which is what numpy writes for plain arrays


def main(kind: str, folder: str) -> None:
    """Open the bundle and answer until the input ends."""
    # Libraries may print; our answers keep the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    infer, given = _OPENED[kind](Path(folder)), os.fdopen(0, "rb")
    while (x := read_array(given)) is not None:
        for output in infer(x):
            answers.write(written(output))
        answers.flush()


def _cpu(folder: Path) -> Callable[[Tensor], list[Tensor]]:
    from mbv3c.execution.runners import HostRunner

    return HostRunner().opened(folder)


def _opencl(folder: Path) -> Callable[[Tensor], list[Tensor]]:
    from mbv3c.execution.runners import open_opencl

    return open_opencl().opened(folder)


def _npu(folder: Path) -> Callable[[Tensor], list[Tensor]]:
    from mbv3c.execution.ethos_u.runner import StreamRunner  # needs vela

    return StreamRunner(read_bundle(folder)).opened(folder)


_OPENED = {CPU: _cpu, OPENCL: _opencl, NPU: _npu}


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


if __name__ == "__main__":
    main(*sys.argv[1:])
