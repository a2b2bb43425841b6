"""Pointwise convolution and fully connected layers: a product held in a work-item's registers.

    y[m, n] = activation(Σ_k x[m, k] · gate[k] · w[n, k] + bias[n]) (+ residual[m, n])

x is NHWC with its spatial axes as rows: [M, K]. A work-item makes `rows` times `vectors` float4 of
y. Neighbours along x of the grid have the next columns: they load adjacent weights and equal parts
of x, so that nothing has to pass through local memory. Gates are those of squeeze-and-excitation;
since this kernel multiplies by them, the scaled map is never written.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.plan import Pointwise
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.opencl.gpus import Gpu, LaunchWork
from mbv3c.targets.opencl.schedules import launch

_ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
_VECTORS = (1, 2, 3, 4)
_UNROLLS = (1, 2, 4)
_ADDRESSES = 12  # registers for addresses and counters


@dataclass(frozen=True)
class Product:
    """A pointwise convolution on a GPU.

    Attributes:
        shape: shape of the product; all images follow each other along its rows.
        images: number of images.
        gated: whether x is scaled by gates [images, K] of the type of sums.
        result: element type of y; empty for the type of x.
    """

    shape: Pointwise
    images: int = 1
    gated: bool = False
    result: str = ""

    @property
    def dtype(self) -> str:
        return self.shape.dtype

    @property
    def lanes(self) -> int:
        return launch.lanes_for(self.shape.outputs)


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        rows, vectors: rows of x, and vectors of outputs, of a work-item.
        unroll: vectors of x along K in a turn of the loop.
        across, down: sides of a work-group: along columns and along rows.
    """

    rows: int
    vectors: int
    unroll: int
    across: int
    down: int


def legal(product: Product, gpu: Gpu) -> list[Tile]:
    """Return the tiles that fit the registers, in work-groups that the GPU launches."""
    shape = product.shape
    columns, steps = shape.outputs // product.lanes, shape.inputs // launch.lanes_for(shape.inputs)
    tiles = (
        Tile(rows, vectors, unroll, across, down)
        for rows in _ROWS
        if rows <= shape.rows
        for vectors in _VECTORS
        if columns % vectors == 0
        for unroll in _UNROLLS
        if steps % unroll == 0
        for across, down in launch.shapes_of_groups(_grid(product, rows, vectors), gpu)
    )
    return [t for t in tiles if not gpu.registers or _registers(product, t) <= gpu.registers]


def default(product: Product, gpu: Gpu) -> Tile:
    """Choose the tile that is estimated to take the least time."""
    return min(legal(product, gpu), key=lambda tile: work(product, tile, gpu).clocks(gpu))


def work(product: Product, tile: Tile, gpu: Gpu) -> LaunchWork:
    """Return what a launch with these knobs does."""
    shape, lanes = product.shape, product.lanes
    size = np.dtype(shape.dtype).itemsize
    made = tile.vectors * lanes
    across, down = gpu.in_warp(tile.across)
    vector_lines = gpu.lines(
        across, made * size, product.lanes * size
    )  # vector of columns per work-item
    steps = shape.inputs // launch.lanes_for(shape.inputs)
    ends = down * tile.rows * tile.vectors * vector_lines * (2 if shape.residual else 1)
    inputs = tile.rows * down * steps * (2 if product.gated else 1)
    tensors = shape.rows * (shape.inputs + shape.outputs * (2 if shape.residual else 1))
    return LaunchWork(
        launch.launched(_grid(product, tile.rows, tile.vectors), (tile.across, tile.down)),
        tile.rows * made * shape.inputs,
        inputs + shape.inputs * tile.vectors * vector_lines + ends,
        (tensors + shape.inputs * shape.outputs) * size,
        _registers(product, tile),
    )


def pack(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [N, K] as [K, N]."""
    return np.ascontiguousarray(weights.T)


def generate(product: Product, tile: Tile) -> PrimFunc:
    """Write the kernel: x [M, K], (gates [images, K]), weights [K, N], bias [N], (residual), y."""
    shape = product.shape
    m, k, n, dtype = shape.rows, shape.inputs, shape.outputs, shape.dtype
    result = product.result or dtype

    def body() -> None:
        x = emit.argument("x", (m, k), dtype)
        gates = emit.argument("gates", (product.images, k), launch.SUM) if product.gated else None
        w = emit.argument("w", (k, n), dtype)
        bias = emit.argument("bias", (n,), launch.SUM)
        residual = emit.argument("residual", (m, n), dtype) if shape.residual else None
        y = emit.argument("y", (m, n), result)

        grid = _grid(product, tile.rows, tile.vectors)
        with launch.work_items(grid, (tile.across, tile.down)) as (column, block):
            first = column * (tile.vectors * product.lanes)
            rows = [block * tile.rows + i for i in range(tile.rows)]
            acc = _sum(product, tile, (x, gates, w, bias), rows, first)
            for i, row in enumerate(rows):
                with emit.when([row < m] if i and m % tile.rows else []):
                    _finish(product, tile, acc, i, (residual, y), row, first)

    return launch.kernel("pointwise", body, _registers(product, tile))


def _sum(
    product: Product, tile: Tile, buffers: tuple[Buffer, ...], rows: list[Expr], first: Expr
) -> Buffer:
    """Emit the sums of a tile; rows beyond the last row repeat it."""
    x, gates, w, bias = buffers
    shape, lanes = product.shape, product.lanes
    step = launch.lanes_for(shape.inputs)
    last = shape.rows - 1
    rows = (
        [row if i == 0 else T.min(row, last) for i, row in enumerate(rows)]
        if (shape.rows % tile.rows)
        else rows
    )
    places = shape.rows // product.images
    acc = launch.registers("acc", tile.rows * tile.vectors, lanes)
    for v in range(tile.vectors):
        start = launch.register("start", launch.read(bias, first + v * lanes, lanes=lanes), lanes)
        for i in range(tile.rows):
            launch.put(acc, i * tile.vectors + v, start)
    xs = launch.registers("xs", tile.rows, step)
    with emit.loop(shape.inputs // (step * tile.unroll)) as turn:
        for u in range(tile.unroll):
            at = (turn * tile.unroll + u) * step
            for i, row in enumerate(rows):
                value = launch.read(x, row, at, lanes=step)
                if gates is not None:
                    image = 0 if product.images == 1 else T.floordiv(row, places)
                    value = value * launch.read(gates, image, at, lanes=step)
                launch.put(xs, i, value)
            for j in range(step):
                for v in range(tile.vectors):
                    weights = launch.read(w, at + j, first + v * lanes, lanes=lanes)
                    weight = launch.register("weight", weights, lanes)
                    for i in range(tile.rows):
                        factor = emit.splat(launch.lane(xs[i], j, step), lanes, launch.SUM)
                        launch.add_to(acc, i * tile.vectors + v, factor * weight)
    return acc


def _finish(
    product: Product,
    tile: Tile,
    acc: Buffer,
    i: int,
    buffers: tuple[Buffer, ...],
    row: Expr,
    first: Expr,
) -> None:
    residual, y = buffers
    lanes, dtype = product.lanes, product.result or product.shape.dtype
    for v in range(tile.vectors):
        column = first + v * lanes
        value = acc[i * tile.vectors + v]
        value = product.shape.activation.apply(value, lanes, launch.SUM)
        if residual is not None:
            value = value + launch.read(residual, row, column, lanes=lanes)
        launch.write(y, value, row, column, lanes=lanes, dtype=dtype)


def _grid(product: Product, rows: int, vectors: int) -> tuple[int, int]:
    shape = product.shape
    return shape.outputs // (product.lanes * vectors), -(-shape.rows // rows)


def _registers(product: Product, tile: Tile) -> int:
    """Return the 32-bit registers of sums, of values loaded for a step, and of addresses."""
    step = launch.lanes_for(product.shape.inputs)
    return (tile.rows * tile.vectors + 1) * product.lanes + tile.rows * step + _ADDRESSES
