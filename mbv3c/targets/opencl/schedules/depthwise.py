"""Depthwise convolution: a work-item makes a run of outputs of a row, in up to four channels.

    y[p, q, c] = activation(Σ_r Σ_s x[p·stride + r·dilation - pad, …, c] · w[r, s, c] + bias[c])

Neighbours along x of the grid have the next channels, which lie side by side in NHWC. If the map
is pooled afterwards, as squeeze-and-excitation does, every work-item also writes the sum of its
outputs: the pool then reads these few sums and not the map.
"""

from dataclasses import dataclass

import numpy as np
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Depthwise
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.opencl.gpus import Gpu, LaunchWork
from mbv3c.targets.opencl.schedules import launch

__all__ = ["DepthwiseMap", "Tile", "default", "generate", "legal", "parts", "work"]

_MOST_OUTPUTS = 8
_ADDRESSES = 12


@dataclass(frozen=True)
class DepthwiseMap:
    """A depthwise convolution on a GPU.

    Attributes:
        shape: shape of the convolution.
        sums: whether the kernel also writes sums of its outputs.
    """

    shape: Depthwise
    sums: bool = False

    @property
    def dtype(self) -> str:
        return self.shape.dtype

    @property
    def lanes(self) -> int:
        return launch.lanes_for(self.shape.channels)


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        outputs: outputs of a row that a work-item makes.
        across, down: sides of a work-group: along channels and along the row.
    """

    outputs: int
    across: int
    down: int


def legal(conv: DepthwiseMap, gpu: Gpu) -> list[Tile]:
    """Return the runs that fit the registers, in work-groups that the GPU launches."""
    widest = min(_MOST_OUTPUTS, conv.shape.horizontal.outputs)
    tiles = (
        Tile(outputs, across, down)
        for outputs in range(1, widest + 1)
        for across, down in launch.shapes_of_groups(_grid(conv, outputs), gpu)
    )
    return [t for t in tiles if not gpu.registers or _registers(conv, t) <= gpu.registers]


def default(conv: DepthwiseMap, gpu: Gpu) -> Tile:
    """Choose the run that is estimated to take the least time."""
    return min(legal(conv, gpu), key=lambda tile: work(conv, tile, gpu).clocks(gpu))


def work(conv: DepthwiseMap, tile: Tile, gpu: Gpu) -> LaunchWork:
    """Return what a launch with these knobs does."""
    shape, size = conv.shape, np.dtype(conv.shape.dtype).itemsize
    down, right = shape.vertical, shape.horizontal
    taps = down.taps * right.taps
    across, beside = gpu.in_warp(tile.across)
    vector = gpu.lines(across, conv.lanes * size, conv.lanes * size)
    loads = down.taps * len(launch.offsets_read(right, tile.outputs)) + tile.outputs
    read = shape.batch * shape.channels * down.size * right.size
    made = shape.batch * shape.channels * down.outputs * right.outputs
    grid = _grid(conv, tile.outputs)
    return LaunchWork(
        launch.launched(grid, (tile.across, tile.down, 1)),
        taps * tile.outputs * conv.lanes,
        (beside * loads + taps) * vector,
        (read + made + taps * shape.channels) * size,
        _registers(conv, tile),
    )


def parts(conv: DepthwiseMap, tile: Tile) -> int:
    """Return the number of sums that a channel has."""
    return conv.shape.vertical.outputs * _grid(conv, tile.outputs)[1]


def generate(conv: DepthwiseMap, tile: Tile) -> PrimFunc:
    """Write the kernel: x [N, H, W, C], weights [R, S, C], bias [C], y, (sums [N, parts, C])."""
    shape = conv.shape
    down, right, c, dtype = shape.vertical, shape.horizontal, shape.channels, shape.dtype
    runs = _grid(conv, tile.outputs)[1]
    rest = right.outputs % tile.outputs

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size, c), dtype)
        w = emit.argument("w", (down.taps, right.taps, c), dtype)
        bias = emit.argument("bias", (c,), launch.SUM)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, c), dtype)
        sums = None
        if conv.sums:
            sums = emit.argument("sums", (shape.batch, parts(conv, tile), c), launch.SUM)
        group = (tile.across, tile.down, 1)
        with launch.work_items(_grid(conv, tile.outputs), group) as (column, run, line):
            image, p = launch.split(line, shape.batch, down.outputs)
            first, q = column * conv.lanes, run * tile.outputs
            acc = _sum(conv, tile, (x, w, bias), (image, p, q, first))
            for i in range(tile.outputs):
                value = shape.activation.apply(acc[i], conv.lanes, launch.SUM)
                launch.put(acc, i, value)
                if rest and i >= rest and sums is not None:
                    inside = q + i < right.outputs
                    launch.put(acc, i, launch.where(inside, acc[i], conv.lanes))
                with emit.when([q + i < right.outputs] if rest and i >= rest else []):
                    launch.write(y, acc[i], image, p, q + i, first, lanes=conv.lanes, dtype=dtype)
            if sums is not None:
                total = acc[0]
                for i in range(1, tile.outputs):
                    total = total + acc[i]
                at = (image, p * runs + run, first)
                launch.write(sums, total, *at, lanes=conv.lanes, dtype=launch.SUM)

    return launch.kernel("depthwise", body, _registers(conv, tile))


def _sum(
    conv: DepthwiseMap, tile: Tile, buffers: tuple[Buffer, ...], at: tuple[Expr, ...]
) -> Buffer:
    """Emit the sums of a run of outputs."""
    x, w, bias = buffers
    image, p, q, first = at
    down, right, lanes = conv.shape.vertical, conv.shape.horizontal, conv.lanes
    acc = launch.registers("acc", tile.outputs, lanes)
    start = launch.register("start", launch.read(bias, first, lanes=lanes), lanes)
    for i in range(tile.outputs):
        launch.put(acc, i, start)
    offsets = launch.offsets_read(right, tile.outputs)
    xs = launch.registers("xs", len(offsets), lanes)
    with emit.loop(down.taps) as r:
        row = p * down.stride + r * down.dilation - down.before
        with emit.when(launch.inside_rows(down, row)):
            for number, offset in enumerate(offsets):
                place = q * right.stride + (offset - right.before)
                inside = launch.inside_columns(right, tile.outputs, place, offset)
                value = launch.read_where(inside, x, image, row, place, first, lanes=lanes)
                launch.put(xs, number, value)
            for s in range(right.taps):
                weight = launch.register("weight", launch.read(w, r, s, first, lanes=lanes), lanes)
                for i in range(tile.outputs):
                    source = xs[offsets.index(i * right.stride + s * right.dilation)]
                    launch.add_to(acc, i, source * weight)
    return acc


def _grid(conv: DepthwiseMap, outputs: int) -> tuple[int, int, int]:
    shape = conv.shape
    return (
        shape.channels // conv.lanes,
        -(-shape.horizontal.outputs // outputs),
        shape.batch * shape.vertical.outputs,
    )


def _registers(conv: DepthwiseMap, tile: Tile) -> int:
    span = conv.shape.horizontal.span(tile.outputs)
    return (tile.outputs + span + 1) * conv.lanes + _ADDRESSES
