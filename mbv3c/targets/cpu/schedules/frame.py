"""A frame of up to four colours, side by side or in planes, as a convolution reads images.

y[c, p] = x[p, c] + shift[c]                                in floats
y[p, c] = (x[p, c] · factor[c] + addend[c]) >> shift[c]     in integers, clipped to int8
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr, panels
from mbv3c.targets.cpu.schedules.integer.arithmetic import VECTOR

_MOST_SHIFT = 22  # bits behind the point; 8 more of a pixel fit int32
_LEAST, _MOST = -128, 127
_FAR = 1 << 30  # no addend is so large


@dataclass(frozen=True)
class Frame:
    """A frame of uint8: x [B, P, C], or [B, C, P] in `planes`."""

    batch: int
    places: int
    channels: int
    planes: bool = False


@dataclass(frozen=True)
class Line:
    """What becomes of a pixel in integers: (x · factor + addend) >> shift, clipped to int8."""

    factor: int
    addend: int
    shift: int

    def apply(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        reached: NDArray[np.int64] = (pixels * self.factor + self.addend) >> self.shift
        return np.clip(reached, _LEAST, _MOST)


def line_through(wanted: NDArray[np.int64], slope: float) -> Line | None:
    """Return the line that gives the wanted int8 for every pixel from 0 to 255; None without one.

    `slope` is about how much they rise from one pixel to the next.
    """
    pixels = np.arange(len(wanted))
    for shift in range(_MOST_SHIFT + 1):
        step = 1 << shift
        nearest = round(slope * step)
        for factor in range(nearest - 2, nearest + 3):
            least = (wanted * step - pixels * factor)[wanted > _LEAST].max(initial=-_FAR)
            most = ((wanted + 1) * step - 1 - pixels * factor)[wanted < _MOST].min(initial=_FAR)
            if least > most:
                continue
            line = Line(factor, int(least + most) // 2, shift)
            reached = pixels * line.factor + line.addend
            fits = np.abs(reached).max() <= np.iinfo(np.int32).max
            if fits and np.array_equal(line.apply(pixels), wanted):
                return line
    return None


def generate_floats(shape: Frame, dtype: str) -> PrimFunc:
    """Write the kernel: x in uint8, shift [C] in fp32, y [B, C, P] in `dtype`."""

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places * shape.channels), "uint8")
        shift = emit.argument("shift", (shape.channels,), "float32")
        y = emit.argument("y", (shape.batch, shape.channels, shape.places), dtype)
        for run in panels(shape.places, VECTOR, 1):
            with emit.loop(shape.batch) as b, emit.loop(run.count) as g:
                first, width = run.first + g * run.columns, run.columns
                for channel, pixels in enumerate(_colours(shape, x, b, first, width)):
                    value = emit.cast(pixels, width, "float32")
                    value = value + emit.splat(shift[channel], width, "float32")
                    emit.store(y, emit.cast(value, width, dtype), b, channel, first, lanes=width)

    return emit.build_kernel("frame", body)


def generate_integers(shape: Frame, lines: Sequence[Line], written: int) -> PrimFunc:
    """Write the kernel: x in uint8, y [B, P, written] in int8; missing colours are 0."""

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places * shape.channels), "uint8")
        y = emit.argument("y", (shape.batch, shape.places * written), "int8")
        for run in panels(shape.places, VECTOR, 1):
            with emit.loop(shape.batch) as b, emit.loop(run.count) as g:
                first, width = run.first + g * run.columns, run.columns
                colours = _colours(shape, x, b, first, width)
                vectors = [
                    emit.held(_on_line(pixels, line, width), width, "int8")
                    for pixels, line in zip(colours, lines, strict=True)
                ]
                vectors += [emit.splat(0, width, "int8")] * (written - shape.channels)
                order = [i + width * channel for i in range(width) for channel in range(written)]
                interleaved = vectors[0] if len(order) == 1 else tirx.Shuffle(vectors, order)
                emit.store(y, interleaved, b, first * written, lanes=width * written)

    return emit.build_kernel("integer_frame", body)


def _colours(shape: Frame, x: Buffer, image: Expr, first: Expr, width: int) -> list[Expr]:
    """Load adjacent pixels and return each of their colours as a vector."""
    channels = shape.channels
    if shape.planes:
        starts = [channel * shape.places + first for channel in range(channels)]
        return [emit.load(x, image, start, lanes=width) for start in starts]
    if width * channels == 1:
        return [x[image, first]]
    loaded = emit.load(x, image, first * channels, lanes=width * channels)
    held = emit.held(loaded, width * channels, "uint8")
    return [
        tirx.Shuffle([held], [i * channels + channel for i in range(width)])
        for channel in range(channels)
    ]


def _on_line(pixels: Expr, line: Line, width: int) -> Expr:
    """Return pixels as int8 on a line."""
    reached = [line.addend, 255 * line.factor + line.addend, 255 * line.factor]
    narrow = max(map(abs, reached)) <= np.iinfo(np.int16).max
    dtype = "int16" if narrow else "int32"
    value = emit.cast(pixels, width, dtype)
    if line.factor != 1:
        value = value * emit.splat(line.factor, width, dtype)
    value = value + emit.splat(line.addend, width, dtype)
    if line.shift:
        value = tirx.shift_right(value, emit.splat(line.shift, width, dtype))
    ends = [at >> line.shift for at in reached[:2]]
    if max(ends) > _MOST:
        value = T.min(value, emit.splat(_MOST, width, dtype))
    if min(ends) < _LEAST:
        value = T.max(value, emit.splat(_LEAST, width, dtype))
    return emit.cast(value, width, "int8")
