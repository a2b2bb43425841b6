"""Squeeze-and-excitation in one kernel, in place.

    m[c] = mean(x[:, c])
    r[j] = reduce(Σ_c m[c] · w₁[c, j] + b₁[j])
    g[c] = gate(Σ_j r[j] · w₂[j, c] + b₂[c])
    x[:, c] *= g[c]

Source: arXiv:1709.01507, with MobileNetV3's ReLU and hard-sigmoid (arXiv:1905.02244, section 5.3).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.plan import GlobalPool
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Activation, Buffer, Expr
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import pooling


@dataclass(frozen=True)
class SqueezeExcite:
    """The shape of a squeeze-and-excitation branch."""

    batch: int
    places: int
    channels: int
    squeezed: int
    reduce: Activation
    gate: Activation
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return 2 * self.batch * self.channels * self.squeezed


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        vectors: number of vectors of outputs that a product holds in registers.
    """

    vectors: int


def legal(shape: SqueezeExcite, processor: Processor) -> list[Tile]:
    """Return every number of accumulators that the registers hold."""
    return [Tile(vectors) for vectors in range(1, processor.registers // 2 + 1)]


def default(shape: SqueezeExcite, processor: Processor) -> Tile:
    """Hide the latency of the multiply-adds."""
    return Tile(processor.fma_chains)


def pack(
    weights: NDArray[np.float32], tile: Tile, processor: Processor, dtype: str = "float32"
) -> NDArray[np.float32]:
    """Return weights [N, K] as one array: the panels [K][columns], one after another."""
    runs = emit.panels(len(weights), processor.lanes(dtype), tile.vectors)
    return emit.pack(weights.T, runs, axis=1)


def generate(shape: SqueezeExcite, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [B, P, C] (also the output), w₁, b₁, w₂, b₂."""
    c, squeezed, dtype, lanes = (
        shape.channels,
        shape.squeezed,
        shape.dtype,
        processor.lanes(shape.dtype),
    )
    wide = emit.sum_type(dtype)  # the type of what lies between x and the gates
    pool = GlobalPool(shape.batch, shape.places, c, dtype)

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places, c), dtype)
        w1 = emit.argument("w1", (c * squeezed,), dtype)
        b1 = emit.argument("b1", (squeezed,), dtype)
        w2 = emit.argument("w2", (squeezed * c,), dtype)
        b2 = emit.argument("b2", (c,), dtype)
        means, reduced = (T.alloc_buffer((size,), wide) for size in (c, squeezed))
        gates = T.alloc_buffer((c,), dtype)
        with emit.loop(shape.batch) as b:
            pooling.emit_means(x, b, means, (), pool, pooling.Tile(tile.vectors), processor)
            product(means, w1, b1, reduced, c, squeezed, shape.reduce, wide)
            product(reduced, w2, b2, gates, squeezed, c, shape.gate, dtype)
            emit_scaling(x, gates, b, shape, tile, processor)

    def product(
        source: Buffer,
        w: Buffer,
        bias: Buffer,
        result: Buffer,
        k: int,
        n: int,
        act: Activation,
        result_type: str,
    ) -> None:
        for run in emit.panels(n, lanes, tile.vectors):
            with emit.loop(run.count) as g:
                column = run.first + g * run.columns
                starts = emit.offsets(run.widths)
                acc = emit.biased_accumulators(1, run.widths, wide, bias, column)
                with emit.loop(k) as i:
                    for v, width in enumerate(run.widths):
                        at = column * k + i * run.columns + starts[v]
                        factor = emit.splat(source[i], width, wide)
                        weight = emit.cast(emit.load(w, at, lanes=width), width, wide)
                        acc.add_product(0, v, factor, weight)
                for v, width in enumerate(run.widths):
                    value = emit.cast(act.apply(acc.get(0, v), width, wide), width, result_type)
                    emit.store(result, value, column + starts[v], lanes=width)

    return emit.build_kernel("squeeze_excite", body)


def emit_scaling(
    x: Buffer,
    gates: Buffer,
    image: Expr,
    shape: SqueezeExcite,
    tile: Tile,
    processor: Processor,
) -> None:
    """Multiply every channel of x[image] by its gate."""
    for run in emit.panels(shape.channels, processor.lanes(shape.dtype), tile.vectors):
        with emit.loop(run.count) as g:
            starts = [run.first + g * run.columns + at for at in emit.offsets(run.widths)]
            factors = [
                emit.held(emit.load(gates, at, lanes=width), width, shape.dtype)
                for at, width in zip(starts, run.widths, strict=True)
            ]
            with emit.loop(shape.places) as p:
                for at, width, factor in zip(starts, run.widths, factors, strict=True):
                    value = emit.load(x, image, p, at, lanes=width) * factor
                    emit.store(x, value, image, p, at, lanes=width)
