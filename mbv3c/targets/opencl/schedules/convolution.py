"""Dense convolution: the stem, and whatever else is neither pointwise nor depthwise.

    y[p, q, n] = activation(Σ_c Σ_r Σ_s x[c at (p, q, r, s)] · w[n, c, r, s] + bias[n])

The input is NCHW, as models take their images, or NHWC; the output is NHWC. A work-item makes a
run of outputs of a row times a few float4 of channels. Neighbours along x of the grid have the
next runs: they load places of a row that lie side by side, and the same weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Convolution
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.opencl.gpus import Gpu, LaunchWork
from mbv3c.targets.opencl.schedules import launch

_MOST_OUTPUTS = 8
_MOST_VECTORS = 4
_ADDRESSES = 12


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        outputs: outputs of a row that a work-item makes.
        vectors: vectors of channels that a work-item makes of each output.
        across, down: sides of a work-group: along the row and along channels.
    """

    outputs: int
    vectors: int
    across: int
    down: int


def legal(shape: Convolution, gpu: Gpu) -> list[Tile]:
    """Return the tiles that fit the registers, in work-groups that the GPU launches."""
    columns = shape.outputs // launch.lanes_for(shape.outputs)
    tiles = (
        Tile(outputs, vectors, across, down)
        for outputs in range(1, min(_MOST_OUTPUTS, shape.horizontal.outputs) + 1)
        for vectors in range(1, _MOST_VECTORS + 1)
        if columns % vectors == 0
        for across, down in launch.shapes_of_groups(_grid(shape, outputs, vectors), gpu)
    )
    return [t for t in tiles if not gpu.registers or _registers(shape, t) <= gpu.registers]


def default(shape: Convolution, gpu: Gpu) -> Tile:
    """Choose the tile that is estimated to take the least time."""
    return min(legal(shape, gpu), key=lambda tile: work(shape, tile, gpu).clocks(gpu))


def work(shape: Convolution, tile: Tile, gpu: Gpu) -> LaunchWork:
    """Return what a launch with these knobs does."""
    size, source = np.dtype(shape.dtype).itemsize, np.dtype(shape.source).itemsize
    down, right = shape.vertical, shape.horizontal
    made = tile.vectors * launch.lanes_for(shape.outputs)
    taps = shape.inputs * down.taps * right.taps
    across, beside = gpu.in_warp(tile.across)
    apart = tile.outputs * right.stride * (1 if shape.channels_first else shape.inputs)
    loads = shape.inputs * down.taps * len(launch.offsets_read(right, tile.outputs))
    vectors = gpu.lines(beside, made * size, made * size)
    stores = gpu.lines(across, tile.outputs * shape.outputs * size, made * size) * beside
    read = shape.batch * shape.inputs * down.size * right.size
    written = shape.batch * shape.outputs * down.outputs * right.outputs
    grid = _grid(shape, tile.outputs, tile.vectors)
    return LaunchWork(
        launch.launched(grid, (tile.across, tile.down, 1)),
        taps * tile.outputs * made,
        loads * gpu.lines(across, apart * source, source) + taps * vectors + tile.outputs * stores,
        read * source + (written + taps * shape.outputs) * size,
        _registers(shape, tile),
    )


def pack(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [N, C, R, S] as [C, R, S, N]."""
    return np.ascontiguousarray(weights.transpose(1, 2, 3, 0))


def generate(shape: Convolution, tile: Tile) -> PrimFunc:
    """Write the kernel: x [B, C, H, W] or [B, H, W, C], weights [C, R, S, N], bias [N], y."""
    down, right = shape.vertical, shape.horizontal
    lanes = launch.lanes_for(shape.outputs)
    rest = right.outputs % tile.outputs

    def body() -> None:
        sides = (down.size, right.size)
        x_shape = (shape.inputs, *sides) if shape.channels_first else (*sides, shape.inputs)
        x = emit.argument("x", (shape.batch, *x_shape), shape.source)
        w_shape = (shape.inputs, down.taps, right.taps, shape.outputs)
        w = emit.argument("w", w_shape, shape.dtype)
        bias = emit.argument("bias", (shape.outputs,), launch.SUM)
        y_shape = (shape.batch, down.outputs, right.outputs, shape.outputs)
        y = emit.argument("y", y_shape, shape.dtype)

        grid = _grid(shape, tile.outputs, tile.vectors)
        with launch.work_items(grid, (tile.across, tile.down, 1)) as (run, column, line):
            image, p = launch.split(line, shape.batch, down.outputs)
            first, q = column * (tile.vectors * lanes), run * tile.outputs
            acc = _sum(shape, tile, (x, w, bias), (image, p, q, first))
            for i in range(tile.outputs):
                with emit.when([q + i < right.outputs] if rest and i >= rest else []):
                    for v in range(tile.vectors):
                        value = acc[i * tile.vectors + v]
                        value = shape.activation.apply(value, lanes, launch.SUM)
                        at = (image, p, q + i, first + v * lanes)
                        launch.write(y, value, *at, lanes=lanes, dtype=shape.dtype)

    return launch.kernel("convolution", body, _registers(shape, tile))


def _sum(
    shape: Convolution, tile: Tile, buffers: tuple[Buffer, ...], at: tuple[Expr, ...]
) -> Buffer:
    """Emit the sums of a tile."""
    x, w, bias = buffers
    image, p, q, first = at
    down, right, lanes = shape.vertical, shape.horizontal, launch.lanes_for(shape.outputs)
    acc = launch.registers("acc", tile.outputs * tile.vectors, lanes)
    for v in range(tile.vectors):
        start = launch.register("start", launch.read(bias, first + v * lanes, lanes=lanes), lanes)
        for i in range(tile.outputs):
            launch.put(acc, i * tile.vectors + v, start)
    offsets = launch.offsets_read(right, tile.outputs)
    xs = launch.registers("xs", len(offsets), 1)
    with emit.loop(shape.inputs) as c, emit.loop(down.taps) as r:
        row = p * down.stride + r * down.dilation - down.before
        with emit.when(launch.inside_rows(down, row)):
            for number, offset in enumerate(offsets):
                place = q * right.stride + (offset - right.before)
                index = (image, c, row, place) if shape.channels_first else (image, row, place, c)
                inside = launch.inside_columns(right, tile.outputs, place, offset)
                launch.put(xs, number, launch.read_where(inside, x, *index, lanes=1))
            for s in range(right.taps):
                for v in range(tile.vectors):
                    weights = launch.read(w, c, r, s, first + v * lanes, lanes=lanes)
                    weight = launch.register("weight", weights, lanes)
                    for i in range(tile.outputs):
                        source = xs[offsets.index(i * right.stride + s * right.dilation)]
                        factor = emit.splat(source, lanes, launch.SUM)
                        launch.add_to(acc, i * tile.vectors + v, factor * weight)
    return acc


def _grid(shape: Convolution, outputs: int, vectors: int) -> tuple[int, int, int]:
    return (
        -(-shape.horizontal.outputs // outputs),
        shape.outputs // (launch.lanes_for(shape.outputs) * vectors),
        shape.batch * shape.vertical.outputs,
    )


def _registers(shape: Convolution, tile: Tile) -> int:
    sums = (tile.outputs * tile.vectors + 1) * launch.lanes_for(shape.outputs)
    return sums + shape.horizontal.span(tile.outputs) + _ADDRESSES
