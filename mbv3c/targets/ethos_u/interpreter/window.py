"""The window that moves over the input: kernel size, stride, dilation, padding and upscaling.

The bits of KERNEL_STRIDE come from `generate_kernel` in vela's
`register_command_stream_generator.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.feature_map import (
    check_size,
    input_map,
    output_shape,
)
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.program import Registers, StreamError, UnsupportedError

Element = TypeVar("Element", np.int64, np.float64)

_NONE, _NEAREST, _ZEROS = 0, 1, 2  # vela's resampling_mode, where ZEROS is TRANSPOSE


@dataclass(frozen=True)
class Window:
    """A kernel's geometry; every pair is vertical, horizontal.

    Attributes:
        taps: rows and columns of the kernel.
        stride, dilation: stride and dilation of the kernel.
        part_kernel_first: whether weights come in the order "part kernel first" (`weights`).
    """

    taps: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    part_kernel_first: bool

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of the input that the dilated kernel covers."""
        return (
            (self.taps[0] - 1) * self.dilation[0] + 1,
            (self.taps[1] - 1) * self.dilation[1] + 1,
        )


def window_of(registers: Registers) -> Window:
    """Return what the KERNEL registers describe."""
    bits = registers["KERNEL_STRIDE"]
    if bits & 1 << 5:
        raise UnsupportedError("kernels in parts of 4x4 taps")
    stride = (1 + (bits >> 1 & 1 | (bits >> 9 & 7) << 1), 1 + (bits & 1 | (bits >> 6 & 7) << 1))
    dilation = (1 + (bits >> 4 & 1), 1 + (bits >> 3 & 1))
    reach = registers["KERNEL_HEIGHT_M1"], registers["KERNEL_WIDTH_M1"]
    if reach[0] % dilation[0] or reach[1] % dilation[1]:
        raise StreamError(f"a kernel of {reach[0] + 1}x{reach[1] + 1} with dilation {dilation}")
    taps = (reach[0] // dilation[0] + 1, reach[1] // dilation[1] + 1)
    return Window(taps, stride, dilation, bool(bits & 1 << 2))


def padded_input(
    registers: Registers, memory: Memory, window: Window, fill: int
) -> NDArray[np.int64]:
    """Return the padded input, without its zero point, as large as the output needs.

    No register holds the input's height and width: they follow from output, kernel, stride and
    padding.

    Args:
        registers: registers of the operation.
        memory: memory that holds the input.
        window: window that moves over the input.
        fill: value of the padding.
    """
    height, width, _ = output_shape(registers)
    rows = (height - 1) * window.stride[0] + window.reach[0]
    columns = (width - 1) * window.stride[1] + window.reach[1]
    top, bottom = registers["IFM_PAD_TOP"], registers["IFM_PAD_BOTTOM"]
    left, right = registers["IFM_PAD_LEFT"], registers["IFM_PAD_RIGHT"]
    inner_rows, inner_columns = rows - top - bottom, columns - left - right
    if inner_rows < 1 or inner_columns < 1:
        raise StreamError(f"padding leaves {inner_rows}x{inner_columns} pixels of the input")
    source = input_map(registers)
    check_size(rows, columns, source.depth)
    upscale = registers["IFM_UPSCALE"]
    if upscale == _NONE:
        values = source.read(memory, inner_rows, inner_columns).astype(np.int64)
        values -= source.zero_point
    elif upscale in (_NEAREST, _ZEROS):
        small = source.read(memory, -(-inner_rows // 2), -(-inner_columns // 2)).astype(np.int64)
        small -= source.zero_point
        values = small.repeat(2, axis=0).repeat(2, axis=1)[:inner_rows, :inner_columns]
        if upscale == _ZEROS:
            values[1::2] = 0
            values[:, 1::2] = 0
    else:
        raise UnsupportedError(f"upscaling mode {upscale}")
    if not any((top, bottom, left, right)):
        return values
    return np.pad(values, ((top, bottom), (left, right), (0, 0)), constant_values=fill)


def taps(
    values: NDArray[Element], window: Window, height: int, width: int
) -> Iterator[tuple[int, int, NDArray[Element]]]:
    """Yield row and column of each tap, and the inputs it reads: (height, width, channels)."""
    for row in range(window.taps[0]):
        y = row * window.dilation[0]
        bottom = y + (height - 1) * window.stride[0] + 1
        for column in range(window.taps[1]):
            x = column * window.dilation[1]
            right = x + (width - 1) * window.stride[1] + 1
            yield row, column, values[y : bottom : window.stride[0], x : right : window.stride[1]]
