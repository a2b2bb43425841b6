"""Global average pooling, NHWC: y[c] = mean over all places of x[:, c]."""

from dataclasses import dataclass

from tvm.tirx import PrimFunc

from mbv3c.lowering.machine import Machine
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.lowering.schedules.panels import panels


@dataclass(frozen=True)
class GlobalPool:
    """The shape of a global average pool."""

    batch: int
    places: int
    channels: int
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return 0


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        vectors: vectors of channels that are summed at once.
    """

    vectors: int


def legal(shape: GlobalPool, machine: Machine) -> list[Tile]:
    """Return every number of sums that the registers hold."""
    return [Tile(vectors) for vectors in range(1, machine.registers // 2 + 1)]


def default(shape: GlobalPool, machine: Machine) -> Tile:
    """Hide the latency of the additions."""
    return Tile(machine.fma_chains)


def generate(shape: GlobalPool, tile: Tile, machine: Machine) -> PrimFunc:
    """Write the kernel; its arguments are x [B, P, C] and y [B, C]."""
    c, lanes, dtype = shape.channels, machine.lanes(shape.dtype), shape.dtype

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places, shape.channels), shape.dtype)
        y = emit.argument("y", (shape.batch, shape.channels), shape.dtype)
        with emit.loop(shape.batch) as b:
            emit_means(x, y, b, shape.places, c, lanes, tile.vectors, dtype, row=b)

    return emit.build_kernel("global_pool", body)


def emit_means(
    x: Buffer,
    y: Buffer,
    image: Expr,
    places: int,
    channels: int,
    lanes: int,
    vectors: int,
    dtype: str,
    row: Expr | None = None,
) -> None:
    """Write the means of x[image] to y, or to y[row]."""
    outer = () if row is None else (row,)
    for run in panels(channels, lanes, vectors):
        group = run.widths
        with emit.loop(run.count) as g:
            starts = [run.first + g * run.columns + at for at in emit.offsets(group)]
            acc = emit.accumulators(1, group, dtype)
            for v, width in enumerate(group):
                acc.set(0, v, emit.splat(0.0, width, dtype))
            with emit.loop(places) as p:
                for v, width in enumerate(group):
                    value = emit.load(x, image, p, starts[v], lanes=width)
                    acc.set(0, v, acc.get(0, v) + value)
            for v, width in enumerate(group):
                mean = acc.get(0, v) * emit.splat(1 / places, width, dtype)
                emit.store(y, mean, *outer, starts[v], lanes=width)
