"""Global average pooling, NHWC: y[c] = mean over all places of x[:, c]."""

from dataclasses import dataclass
from math import isqrt

from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import GlobalPool
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr, panels
from mbv3c.targets.cpu.cores import Processor

_HALF_PART = 16  # a power of two, so that dividing by it is exact


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        vectors: vectors of channels that are summed at once.
    """

    vectors: int


def legal(shape: GlobalPool, processor: Processor) -> list[Tile]:
    """Return every number of sums that the registers hold."""
    return [Tile(vectors) for vectors in range(1, processor.registers // 2 + 1)]


def default(shape: GlobalPool, processor: Processor) -> Tile:
    """Hide the latency of the additions."""
    return Tile(processor.fma_chains)


def generate(shape: GlobalPool, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [B, P, C] and y [B, C]."""

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places, shape.channels), shape.dtype)
        y = emit.argument("y", (shape.batch, shape.channels), shape.dtype)
        with emit.loop(shape.batch) as b:
            emit_means(x, b, y, (b,), shape, tile, processor)

    return emit.build_kernel("global_pool", body)


def emit_means(
    x: Buffer,
    image: Expr,
    y: Buffer,
    row: tuple[Expr, ...],
    shape: GlobalPool,
    tile: Tile,
    processor: Processor,
) -> None:
    """Write the means of x[image] to y[row], which may be of another type.

    Values are added in parts: thousands of them one after the other would lose digits. Half
    precision would also overflow. There a part adds up sixteenths of up to sixteen values, so that
    its sum is no larger than a value, and the parts are added in single precision.
    """
    places, dtype = shape.places, shape.dtype
    wide = emit.sum_type(dtype)
    part = max(1, isqrt(places))  # as many values in a part as there are parts
    share = 1.0
    if wide != dtype:
        part, share = min(part, _HALF_PART), 1 / _HALF_PART
    for run in panels(shape.channels, processor.lanes(dtype), tile.vectors):
        group = run.widths
        with emit.loop(run.count) as g:
            starts = [run.first + g * run.columns + at for at in emit.offsets(group)]
            total = emit.accumulators(1, group, wide)
            total.clear()

            def add(first: Expr, count: int, total: Accumulators, starts: list[Expr]) -> None:
                def value(place: Expr, v: int) -> Expr:
                    width = total.widths[v]
                    loaded = emit.load(x, image, place, starts[v], lanes=width)
                    return loaded * emit.splat(share, width, dtype) if share != 1 else loaded

                part = emit.accumulators(1, total.widths, dtype)
                for v in range(len(total.widths)):
                    part.set(0, v, value(first, v))
                with emit.loop(count - 1) as p:
                    for v in range(len(total.widths)):
                        part.set(0, v, part.get(0, v) + value(first + 1 + p, v))
                total.add(part)

            with emit.loop(places // part) as block:
                add(block * part, part, total, starts)
            if places % part:
                add(places - places % part, places % part, total, starts)
            for v, width in enumerate(group):
                mean = total.get(0, v) * emit.splat(1 / (places * share), width, wide)
                emit.store(y, emit.cast(mean, width, y.dtype), *row, starts[v], lanes=width)
