"""Depthwise convolution of int8, NHWC: the rows under a row of windows, with their padding, first.

    y[p, q, c] = look up(round((Σ_r Σ_s x[p·stride + r·dilation - pad, …, c] · w[r, s, c]
                                + bias[c]) · scale[c]) + zero)

For every output row the input rows are copied side by side, with the zero point where they reach
beyond the map; so no window needs a comparison. Cores with pairs of int16 take the values of two
taps as a pair, four channels at once; Helium takes four channels as a vector of int32.
"""

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.mcu.schedules import words
from mbv3c.targets.mcu.schedules.words import Layer

_COPIED = 16  # bytes at once


def pack(
    shape: IntegerDepthwise, processor: Processor, weights: NDArray[np.int8]
) -> NDArray[np.int8 | np.int16]:
    """Return weights [C, 1, R, S] by groups of four channels.

    For pairs of int16 they are [C / 4][taps / 2][4][2], with a tap of zeros where the number of
    taps is odd, else [C / 4][taps][4]; the channels of the last group that is not whole are 0.
    """
    channels = -(-shape.channels // GROUP) * GROUP
    taps = np.zeros((channels, shape.vertical.taps * shape.horizontal.taps), np.int8)
    taps[: shape.channels] = weights.reshape(shape.channels, -1)
    groups = taps.reshape(-1, GROUP, taps.shape[1])
    if processor.integers != "smlad":
        return np.ascontiguousarray(groups.transpose(0, 2, 1))
    even = np.pad(groups, ((0, 0), (0, 0), (0, groups.shape[2] % 2))).astype(np.int16)
    paired = even.reshape(len(groups), GROUP, -1, 2)
    return np.ascontiguousarray(paired.transpose(0, 2, 1, 3))


def generate(shape: IntegerDepthwise, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [N, H, W, C], weights, bias, scale, (table), y."""
    down, right, c = shape.vertical, shape.horizontal, shape.channels
    wide = right.span(right.outputs)  # what the windows of a row cover, padding included
    groups, taps = -(-c // GROUP), down.taps * right.taps
    pairs = processor.integers == "smlad"
    beyond = -c % GROUP  # a last group that is not whole reads on

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size * c), "int8")
        packed = (groups, -(-taps // 2) * GROUP * 2) if pairs else (groups, taps * GROUP)
        w = emit.argument("w", packed, "int16" if pairs else "int8")
        bias = emit.argument("bias", (c,), "int32")
        scale = emit.argument("scale", (c,), "float32")
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, c), "int8")
        rows = T.alloc_buffer((down.taps * wide * c + beyond,), "int8", scope="global")
        layer = Layer(w, bias, scale, table, shape.output, processor)
        # Columns of the map that windows cover, and where they lie in a row.
        at, last = max(0, right.before), min(right.size, wide - right.before)

        def copy_row(n: Expr, p: Expr, r: int) -> None:
            begin = r * wide * c
            needed = down.inside(p, r)
            if not needed:
                _copy(x, (n, down.source(p, r)), rows, begin + at * c, last * c)
                return
            with T.If(emit.all_of(needed)):
                with T.Then():
                    _copy(x, (n, down.source(p, r)), rows, begin + at * c, last * c)
                with T.Else():
                    _fill(rows, begin + at * c, last * c, shape.zero)

        offsets = [
            (r * wide + s * right.dilation) * c
            for r in range(down.taps)
            for s in range(right.taps)
        ]
        add = _add_pairs if pairs else _add_vectors

        def group(place: tuple[Expr, ...], number: Expr, kept: int) -> None:
            """Compute four channels of an output, or those that are left."""
            first = number * GROUP
            base = place[-1] * right.stride * c + first
            sums = add(rows, base, offsets, layer, number, kept)
            if kept == GROUP:
                emit.store(y, layer.round(sums, first), *place, first, lanes=GROUP)
                return
            for i in range(kept):
                one = layer.round(sums[i : i + 1], first + i)
                emit.store(y, one, *place, first + i, lanes=1)

        with words.loop(shape.batch) as n:
            for r in range(down.taps):
                _fill(rows, r * wide * c, at * c, shape.zero)
                end = at + last
                _fill(rows, (r * wide + end) * c, (wide - end) * c, shape.zero)
            with words.loop(down.outputs) as p:
                for r in range(down.taps):
                    copy_row(n, p, r)
                with words.loop(right.outputs) as q:
                    if c >= GROUP:
                        with words.loop(c // GROUP) as number:
                            group((n, p, q), number, GROUP)
                    if c % GROUP:
                        group((n, p, q), c // GROUP, c % GROUP)

    return emit.build_kernel("integer_depthwise", body)


def _copy(x: Buffer, row: tuple[Expr, ...], rows: Buffer, begin: int, size: int) -> None:
    """Copy the first int8 of a row of x."""
    if size >= _COPIED:
        with words.loop(size // _COPIED) as i:
            value = emit.load(x, *row, i * _COPIED, lanes=_COPIED)
            emit.store(rows, value, begin + i * _COPIED, lanes=_COPIED)
    done = size // _COPIED * _COPIED
    for lanes in emit.vectors(size - done, _COPIED):
        emit.store(rows, emit.load(x, *row, done, lanes=lanes), begin + done, lanes=lanes)
        done += lanes


def _fill(rows: Buffer, begin: int, size: int, zero: int) -> None:
    """Write the zero point."""
    if size >= _COPIED:
        with words.loop(size // _COPIED) as i:
            value = emit.splat(zero, _COPIED, "int8")
            emit.store(rows, value, begin + i * _COPIED, lanes=_COPIED)
    done = size // _COPIED * _COPIED
    for lanes in emit.vectors(size - done, _COPIED):
        emit.store(rows, emit.splat(zero, lanes, "int8"), begin + done, lanes=lanes)
        done += lanes


def _add_pairs(
    rows: Buffer, base: Expr, offsets: list[int], layer: Layer, number: Expr, kept: int
) -> list[Expr]:
    """Return the sums of four channels, by two taps at once."""
    acc = emit.accumulators(1, (1,) * kept, "int32")
    for i in range(kept):
        acc.set(0, i, layer.bias[number * GROUP + i])
    even = [*offsets, *offsets[-1:] * (len(offsets) % 2)]
    for at, (one, other) in enumerate(zip(even[::2], even[1::2], strict=True)):
        first = words.pairs(words.word(rows, base + one))
        second = words.pairs(words.word(rows, base + other)) if one != other else first
        for i in range(kept):
            start = (at * GROUP + i) * 2
            loaded = emit.load(layer.weights, number, start, lanes=2)
            weights = tirx.reinterpret("int32", loaded)
            halves = first[i % 2], second[i % 2]
            low, high = (tirx.const(mask, "int32") for mask in (0xFFFF, -0x10000))
            shift = tirx.const(16, "int32")
            if i < 2:
                both = (halves[0] & low) | (halves[1] << shift)
            else:
                shifted = tirx.reinterpret("uint32", halves[0]) >> tirx.const(16, "uint32")
                both = tirx.reinterpret("int32", shifted) | (halves[1] & high)
            acc.set(0, i, words.add_pairs(acc.get(0, i), both, weights))
    return [acc.get(0, i) for i in range(kept)]


def _add_vectors(
    rows: Buffer, base: Expr, offsets: list[int], layer: Layer, number: Expr, kept: int
) -> list[Expr]:
    """Return the sums of four channels, which lie in a vector."""
    acc = emit.accumulators(1, (GROUP,), "int32")
    whole = kept == GROUP
    begin = emit.load(layer.bias, number * GROUP, lanes=GROUP) if whole else None
    acc.set(0, 0, begin if whole else emit.splat(0, GROUP, "int32"))
    for at, offset in enumerate(offsets):
        value = words.load_widened(rows, base + offset, lanes=GROUP)
        weights = words.load_widened(layer.weights, number, at * GROUP, lanes=GROUP)
        acc.add_product(0, 0, value, weights)
    sums = emit.held(acc.get(0, 0), GROUP, "int32")
    rest = [0 if whole else layer.bias[number * GROUP + i] for i in range(kept)]
    return [tirx.Shuffle([sums], [i]) + rest[i] for i in range(kept)]
