"""Kernels and scales as the accelerator reads them, decompressed by vela's own codec.

A kernel's stream is compressed (`weight_decoder`). Its weights come in the order in which the
accelerator's multipliers read them: by blocks of output channels, blocks of input channels and
parts of 8x8 taps; inside these tap by tap ("depth first") or channel by channel ("part kernel
first"), down to the channels of a step. vela's `mlw_codec.reorder_encode` writes this order, and a
test compares with it.

Scales are records of ten bytes: 40 bits of bias, 32 of scale, 6 of shift. `encode_bias` in vela's
`weight_compressor.py` packs them.

`ethosu.mlw_codec` ends its process if a stream is corrupt; our process must go on and say so. The
decoding process reads streams and answers with 16-bit numbers, each behind a 32-bit count.
"""

import hashlib
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.program import StreamError

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


RECORD_BYTES = 10
_MAX_TAPS = 8  # of a part of a kernel along each axis, without dilation


@dataclass(frozen=True)
class Ordering:
    """What the order of a kernel's weights depends on.

    Attributes:
        shape: output channels, height, width, input channels (1 if depthwise).
        depthwise: whether every output channel reads its own input channel.
        part_kernel_first: whether the order is "part kernel first", not "depth first".
        input_bits: bits of an element of the input, 8 or 16.
        dilation: dilation, vertical and horizontal.
        block_depth: output channels of a block.
        ofm_ublock_depth, ifm_ublock_depth: output and input channels of a step of the multipliers.
    """

    shape: tuple[int, int, int, int]
    depthwise: bool
    part_kernel_first: bool
    input_bits: int
    dilation: tuple[int, int]
    block_depth: int
    ofm_ublock_depth: int
    ifm_ublock_depth: int


def read_kernel(
    stream: bytes,
    ordering: Ordering,
    decoder: WeightDecoder,
    known: dict[bytes, NDArray[np.int16]],
) -> NDArray[np.int16]:
    """Return a kernel of shape (output channels, height, width, input channels).

    Args:
        stream: the compressed weights.
        ordering: order of the weights.
        decoder: decompressor of the weights.
        known: kernels that were read before, to which this kernel is added.

    Raises:
        StreamError: the stream is corrupt or of another length than the shape asks for.
    """
    key = hashlib.sha256(repr(astuple(ordering)).encode() + stream).digest()
    if key not in known:
        known[key] = arrange(decoder.decode(stream), ordering)
    return known[key]


def arrange(weights: NDArray[np.int16], ordering: Ordering) -> NDArray[np.int16]:
    """Return weights in the order of the stream as a kernel of shape `ordering.shape`."""
    needed = math.prod(ordering.shape)  # without padding
    if needed <= len(weights):
        positions = positions_in_stream(ordering)
        needed = len(positions)
    if len(weights) != needed:
        raise StreamError(
            f"the weight stream holds {len(weights)} weights; a kernel of"
            f" {'x'.join(map(str, ordering.shape))} takes {needed}"
        )
    padding = positions < 0
    if weights[padding].any():
        raise StreamError("the weight stream has weights beyond the edge of the kernel")
    kernel = np.zeros(ordering.shape, np.int16)
    kernel.reshape(-1)[positions[~padding]] = weights[~padding]
    return kernel


def positions_in_stream(ordering: Ordering) -> NDArray[np.int32]:
    """Return the index in the flat kernel of every weight of the stream, -1 for padding."""
    return np.concatenate(list(_blocks(ordering)))


def _blocks(ordering: Ordering) -> Iterator[NDArray[np.int32]]:
    outputs, height, width, inputs = ordering.shape
    input_block = 16 if ordering.part_kernel_first or ordering.input_bits == 16 else 32
    step_y, step_x = (_MAX_TAPS // dilation for dilation in ordering.dilation)
    for first_output in range(0, outputs, ordering.block_depth):
        output_count = min(ordering.block_depth, outputs - first_output)
        for first_input in range(0, inputs, input_block):
            # Depth first, the stream always has all input channels of a block.
            input_count = input_block
            if ordering.part_kernel_first:
                input_count = min(input_block, inputs - first_input)
            for y in range(0, height, step_y):
                for x in range(0, width, step_x):
                    taps = (y, min(step_y, height - y), x, min(step_x, width - x))
                    yield _part(
                        ordering, (first_output, output_count), (first_input, input_count), taps
                    )


def _part(
    ordering: Ordering,
    output_block: tuple[int, int],
    input_block: tuple[int, int],
    taps: tuple[int, int, int, int],
) -> NDArray[np.int32]:
    """Return the indices of a block of channels by a part of the taps.

    The axes, from the outermost: groups of input channels (part kernel first), groups of output
    channels, taps, groups of input channels (depth first), output channels, input channels.
    """
    outputs, height, width, inputs = ordering.shape
    top, rows, left, columns = taps
    count = rows * columns
    if ordering.part_kernel_first:
        count = _round_up(count, 2 if ordering.input_bits == 16 else 4)
    elif ordering.depthwise:
        count = _round_up(count, 4)
    in_step, out_step = ordering.ifm_ublock_depth, ordering.ofm_ublock_depth
    groups = np.arange(0, 1 if ordering.depthwise else input_block[1], in_step)
    outer, inner = (groups, groups[:1]) if ordering.part_kernel_first else (groups[:1], groups)
    a, b, tap, d, e, f = np.ix_(
        outer,
        np.arange(0, output_block[1], out_step),
        np.arange(count),
        inner,
        np.arange(out_step),
        np.arange(1 if ordering.depthwise else in_step),
    )
    row, column = tap // columns, tap % columns
    output, channel = output_block[0] + b + e, input_block[0] + a + d + f
    index = ((output * height + top + row) * width + left + column) * inputs + channel
    inside = (output < outputs) & (channel < inputs) & (row < rows)
    return np.where(inside, index, -1).astype(np.int32).reshape(-1)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Scales:
    """How the sums of each output channel are scaled: (sum + bias) * scale >> shift.

    Attributes:
        bias, scale, shift: numbers for each channel.
    """

    bias: NDArray[np.int64]
    scale: NDArray[np.int64]
    shift: NDArray[np.int64]


def read_scales(stream: NDArray[np.uint8], channels: int) -> Scales:
    """Return the scales of `channels` channels.

    Raises:
        StreamError: the stream is too short, or its unused bits are set.
    """
    if len(stream) < channels * RECORD_BYTES:
        raise StreamError(f"{len(stream)} bytes of scales for {channels} channels")
    records = stream[: channels * RECORD_BYTES].reshape(channels, RECORD_BYTES).astype(np.int64)
    if (records[:, 9] >> 6).any():
        raise StreamError("unused bits of the scales are set")
    bias = records[:, :5] @ (1 << np.arange(0, 40, 8))
    return Scales(
        bias=bias - ((bias >> 39) << 40),
        scale=records[:, 5:9] @ (1 << np.arange(0, 32, 8)),
        shift=records[:, 9],
    )
