"""The gates of squeeze-and-excitation: a launch with a work-group for each image.

    m[c] = Σ_part sums[part, c] / places
    r[j] = reduce(Σ_c m[c] · w₁[c, j] + b₁[j])
    g[c] = gate(Σ_j r[j] · w₂[j, c] + b₂[c])

The sums come from the depthwise convolution before, and the pointwise convolution after multiplies
by the gates: the map itself is not read or written once more. Means and r go through a few hundred
floats of global memory, which all work-items of a group see after a barrier; on Mali local memory
is global memory, too.

Source: arXiv:1709.01507, with MobileNetV3's ReLU and hard-sigmoid (arXiv:1905.02244, section 5.3).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Activation, Buffer, Expr
from mbv3c.targets.opencl.gpus import Gpu, LaunchWork
from mbv3c.targets.opencl.schedules import launch

_SIDES = (16, 32, 64, 128, 256, 512, 1024)
_REGISTERS = 24  # a vector of sums, a vector of weights, and addresses


@dataclass(frozen=True)
class Gates:
    """The gates of a squeeze-and-excitation branch.

    Attributes:
        batch: number of images.
        parts: number of sums of a channel.
        places: places of the map, over which the mean is taken.
        channels, squeezed: extents of the products.
        reduce, gate: activations after the first and the second product.
        dtype: element type of the weights.
        source: element type of the sums.
    """

    batch: int
    parts: int
    places: int
    channels: int
    squeezed: int
    reduce: Activation
    gate: Activation
    dtype: str = "float32"
    source: str = launch.SUM

    @property
    def madds(self) -> int:
        return 2 * self.batch * self.channels * self.squeezed


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        items: number of work-items of a work-group.
    """

    items: int


def legal(shape: Gates, gpu: Gpu) -> list[Tile]:
    """Return every size of a work-group that the GPU launches, from a warp on."""
    return [Tile(n) for n in _SIDES if n >= min(gpu.warp, _SIDES[-1]) and gpu.fits((n,))]


def default(shape: Gates, gpu: Gpu) -> Tile:
    """Choose the work-group that is estimated to take the least time."""
    return min(legal(shape, gpu), key=lambda tile: work(shape, tile, gpu).clocks(gpu))


def work(shape: Gates, tile: Tile, gpu: Gpu) -> LaunchWork:
    """Return what a launch with these knobs does."""
    size, source = np.dtype(shape.dtype).itemsize, np.dtype(shape.source).itemsize
    c, s = shape.channels, shape.squeezed
    vectors, columns = c // launch.lanes_for(c), s // launch.lanes_for(s)
    turns = (-(-vectors // tile.items), -(-columns // tile.items))
    lanes = (launch.lanes_for(c), launch.lanes_for(s))
    reduced, expanded = turns[1] * c * lanes[1], turns[0] * s * lanes[0]
    lines = [gpu.lines(gpu.warp, width * size, width * size) for width in lanes]
    sums = gpu.lines(gpu.warp, lanes[0] * source, lanes[0] * source)
    asked = turns[0] * (shape.parts * sums + s * (lines[0] + 1)) + turns[1] * c * (lines[1] + 1)
    return LaunchWork(
        shape.batch * tile.items,
        reduced + expanded,
        asked,
        shape.batch * c * shape.parts * source + 2 * c * s * size,
        _REGISTERS,
    )


def pack(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [N, K] as [K, N]."""
    return np.ascontiguousarray(weights.T)


def generate(shape: Gates, tile: Tile, language: str = "opencl") -> PrimFunc:
    """Write the kernel; its arguments are sums, w₁, b₁, w₂, b₂, gates, means and r.

    Sums are [B, parts, C], gates and means [B, C], and r, the first product's result,
    [B, squeezed].
    """
    b, c, s, dtype = shape.batch, shape.channels, shape.squeezed, shape.dtype

    def body() -> None:
        sums = emit.argument("sums", (b, shape.parts, c), shape.source)
        w1 = emit.argument("w1", (c, s), dtype)
        b1 = emit.argument("b1", (s,), launch.SUM)
        w2 = emit.argument("w2", (s, c), dtype)
        b2 = emit.argument("b2", (c,), launch.SUM)
        gates = emit.argument("gates", (b, c), launch.SUM)
        means = emit.argument("means", (b, c), launch.SUM)
        reduced = emit.argument("reduced", (b, s), launch.SUM)
        with launch.work_items((tile.items, b), (tile.items, 1)) as (item, image):
            _means(shape, tile, (sums, means), item, image)
            launch.barrier(language)
            _product(tile, (means, w1, b1, reduced), (c, s), shape.reduce, item, image)
            launch.barrier(language)
            _product(tile, (reduced, w2, b2, gates), (s, c), shape.gate, item, image)

    return launch.kernel("gates", body, _REGISTERS)


def _means(
    shape: Gates, tile: Tile, buffers: tuple[Buffer, Buffer], item: Expr, image: Expr
) -> None:
    sums, means = buffers
    lanes = launch.lanes_for(shape.channels)
    with launch.shared_out(shape.channels // lanes, tile.items, item) as vector:
        first = vector * lanes
        acc = launch.registers("acc", 1, lanes)
        launch.put(acc, 0, emit.splat(0.0, lanes, launch.SUM))
        with emit.loop(shape.parts) as part:
            launch.add_to(acc, 0, launch.read(sums, image, part, first, lanes=lanes))
        mean = acc[0] * emit.splat(1 / shape.places, lanes, launch.SUM)
        launch.write(means, mean, image, first, lanes=lanes, dtype=launch.SUM)


def _product(
    tile: Tile,
    buffers: tuple[Buffer, ...],
    extents: tuple[int, int],
    activation: Activation,
    item: Expr,
    image: Expr,
) -> None:
    source, w, bias, result = buffers
    k, n = extents
    lanes = launch.lanes_for(n)
    with launch.shared_out(n // lanes, tile.items, item) as vector:
        first = vector * lanes
        acc = launch.registers("acc", 1, lanes)
        launch.put(acc, 0, launch.read(bias, first, lanes=lanes))
        with emit.loop(k) as i:
            factor = emit.splat(launch.read(source, image, i, lanes=1), lanes, launch.SUM)
            launch.add_to(acc, 0, factor * launch.read(w, i, first, lanes=lanes))
        value = activation.apply(acc[0], lanes, launch.SUM)
        launch.write(result, value, image, first, lanes=lanes, dtype=launch.SUM)
