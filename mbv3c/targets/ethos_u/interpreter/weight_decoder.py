"""Decompress weight streams with vela's own codec, in a process of its own.

`ethosu.mlw_codec` ends its process if a stream is corrupt; our process must go on and say so. The
decoding process reads streams and answers with 16-bit numbers, each behind a 32-bit count.
"""

import struct
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError

_COUNT = struct.Struct("<i")

# Standard output belongs to the answers; what the codec prints goes to standard error.
_WORKER = """
import os, struct, sys
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
from array import array
from ethosu import mlw_codec
requests = sys.stdin.buffer
while header := requests.read(4):
    weights = array("h", mlw_codec.decode(bytearray(requests.read(*struct.unpack("<i", header)))))
    answers.write(struct.pack("<i", len(weights)))
    answers.write(weights.tobytes())
    answers.flush()
"""


class WeightDecoder:
    """Decompresses streams; a context manager, whose process starts when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._stop(self._process)

    def decode(self, stream: bytes) -> NDArray[np.int16]:
        """Return the weights of a stream, in its order.

        Raises:
            StreamError: the stream is corrupt.
        """
        if self._process is None:
            pipe = subprocess.PIPE
            command = [sys.executable, "-c", _WORKER]
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        with suppress(BrokenPipeError):
            process.stdin.write(_COUNT.pack(len(stream)) + stream)
            process.stdin.flush()
            answer = process.stdout.read(_COUNT.size)
        if len(answer) < _COUNT.size:
            raise StreamError(f"the weight stream is corrupt: {self._stop(process)}")
        (count,) = _COUNT.unpack(answer)
        return np.frombuffer(process.stdout.read(2 * count), "<i2").astype(np.int16)

    def _stop(self, process: "subprocess.Popen[bytes]") -> str:
        """End the process and return the last line that it printed."""
        self._process = None
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        with process:
            assert process.stderr is not None
            lines = process.stderr.read().decode(errors="replace").split("\n")
        printed = [line.strip() for line in lines if line.strip()]
        return printed[-1] if printed else "vela's codec ended without a word"
