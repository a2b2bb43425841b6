"""Squeeze-and-excitation in one kernel, in place, with weights that are stored in bf16 or int8.

It computes what `squeeze_excite` does; only how the weights are read differs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.plan import Array, GlobalPool
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Activation, Buffer
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import pooling, squeeze_excite, stored
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite, Tile
from mbv3c.targets.cpu.schedules.stored import Panel, storage_of


@dataclass(frozen=True)
class StoredSqueezeExcite(SqueezeExcite):
    """The shape of a squeeze-and-excitation branch.

    Attributes:
        stored: how its weights are stored, one of `mbv3c.graphs.narrow.STORED`.
    """

    stored: str = ""


def legal(shape: StoredSqueezeExcite, processor: Processor) -> list[Tile]:
    """Return every number of sums that the registers hold beside what weights become."""
    together = storage_of(shape.stored).together
    most = max(together, processor.registers // 2)
    return [Tile(vectors) for vectors in stored.vector_counts(together, most)]


def default(shape: StoredSqueezeExcite, processor: Processor) -> Tile:
    """Hide the latency of the multiply-adds."""
    tiles = legal(shape, processor)
    enough = [tile for tile in tiles if tile.vectors >= processor.fma_chains]
    return enough[0] if enough else tiles[-1]


def pack(
    shape: StoredSqueezeExcite, tile: Tile, processor: Processor, weights: NDArray[np.float32]
) -> tuple[Array, ...]:
    """Return what the kernel takes for weights [N, K], as `stored.pack` says."""
    lanes = processor.lanes("float32")
    runs = stored.panels(len(weights), lanes, shape.stored, tile.vectors)
    return stored.pack(weights, runs, lanes, shape.stored)


def generate(shape: StoredSqueezeExcite, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel.

    Its arguments are x [B, P, C] (also the output), w₁, the scales of w₁ [S] in int8, b₁ [S], and
    so for w₂ [C].
    """
    c, squeezed, lanes = shape.channels, shape.squeezed, processor.lanes("float32")
    storage = storage_of(shape.stored)
    pool = GlobalPool(shape.batch, shape.places, c)

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places, c), "float32")
        first, second = (layer(number, size) for number, size in ((1, squeezed), (2, c)))
        means, reduced, gates = (T.alloc_buffer((size,), "float32") for size in (c, squeezed, c))
        with emit.loop(shape.batch) as b:
            pooling.emit_means(x, b, means, (), pool, pooling.Tile(tile.vectors), processor)
            product(means, first, reduced, c, squeezed, shape.reduce)
            product(reduced, second, gates, squeezed, c, shape.gate)
            squeeze_excite.emit_scaling(x, gates, b, shape, tile, processor)

    def layer(number: int, outputs: int) -> tuple[Buffer, Buffer | None, Buffer]:
        """Declare the arguments of a layer: weights, scales and bias."""
        w = emit.argument(f"w{number}", (c * squeezed,), storage.dtype)
        name = f"scales{number}"
        scales = emit.argument(name, (outputs,), "float32") if storage.scaled else None
        return w, scales, emit.argument(f"b{number}", (outputs,), "float32")

    def product(
        source: Buffer,
        given: tuple[Buffer, Buffer | None, Buffer],
        result: Buffer,
        k: int,
        n: int,
        act: Activation,
    ) -> None:
        w, scales, bias = given
        for run in stored.panels(n, lanes, shape.stored, tile.vectors):
            panel = Panel(run.widths, lanes, shape.stored)
            starts = emit.offsets(panel.widths)
            with emit.loop(run.count) as g:
                column = run.first + g * run.columns
                sums = panel.begin(1, bias, column)
                stored.add_products(panel, sums, w, column * k, k, [(source, ())], processor)
                results = panel.results(sums, 0, scales, bias, column)
                for at, width, value in zip(starts, panel.widths, results, strict=True):
                    made = act.apply(emit.held(value, width, "float32"), width, "float32")
                    emit.store(result, made, column + at, lanes=width)

    return emit.build_kernel("stored_squeeze_excite", body)
