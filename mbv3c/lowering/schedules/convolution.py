"""Dense convolution: the stem, and whatever else is neither pointwise nor depthwise.

    y[p, q, n] = activation(Σ_c Σ_r Σ_s x[c at (p, q, r, s)] · w[n, c, r, s] + bias[n])

The input is NCHW, as models take their images, or NHWC; the output is NHWC. A run of outputs of
one row times a panel of channels is held in registers.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.machine import Machine
from mbv3c.lowering.schedules import emit, panels
from mbv3c.lowering.schedules.emit import Expr
from mbv3c.lowering.schedules.epilogue import Activation
from mbv3c.lowering.schedules.panels import Panels
from mbv3c.lowering.schedules.windows import Axis, Run, for_each_run

_MAX_OUTPUTS = 16
_MAX_VECTORS = 8
_MAX_TAPS_UNROLLED = 64


@dataclass(frozen=True)
class Convolution:
    """The shape of a dense convolution.

    Attributes:
        channels_first: whether the input is NCHW.
    """

    batch: int
    inputs: int
    outputs: int
    vertical: Axis
    horizontal: Axis
    activation: Activation
    channels_first: bool
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        places = self.batch * self.vertical.outputs * self.horizontal.outputs
        taps = self.vertical.taps * self.horizontal.taps
        return places * self.outputs * self.inputs * taps


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        run: outputs of a row in a tile.
        vectors: vectors of output channels in a tile.
    """

    run: int
    vectors: int


def legal(shape: Convolution, machine: Machine) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    widest = len(emit.vectors(shape.outputs, machine.lanes(shape.dtype)))
    return [
        Tile(run, vectors)
        for run in range(1, min(shape.horizontal.outputs, _MAX_OUTPUTS) + 1)
        for vectors in range(1, min(widest, _MAX_VECTORS) + 1)
        if run * vectors + min(run, vectors) + 1 <= machine.registers
    ]


def default(shape: Convolution, machine: Machine) -> Tile:
    """Choose the tile with the fewest instructions."""
    return min(legal(shape, machine), key=lambda tile: _cost(shape, tile, machine))


def pack(
    shape: Convolution, tile: Tile, machine: Machine, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return weights [N, C, R, S] as one array: the panels [C][R][S][panel], one after another."""
    columns = weights.transpose(1, 2, 3, 0).reshape(-1, shape.outputs)
    return panels.pack(columns, _panels(shape, tile, machine))


def generate(shape: Convolution, tile: Tile, machine: Machine) -> PrimFunc:
    """Write the kernel; its arguments are x, packed weights, bias [N], y [B, P, Q, N]."""
    down, right = shape.vertical, shape.horizontal
    taps = down.taps * right.taps
    unrolled = shape.inputs * taps <= _MAX_TAPS_UNROLLED

    def body() -> None:
        sides = (down.size, right.size)
        x_shape = (shape.inputs, *sides) if shape.channels_first else (*sides, shape.inputs)
        x = emit.argument("x", (shape.batch, *x_shape), shape.dtype)
        w = emit.argument("w", (shape.inputs * taps * shape.outputs,), shape.dtype)
        bias = emit.argument("bias", (shape.outputs,), shape.dtype)
        y = emit.argument(
            "y", (shape.batch, down.outputs, right.outputs, shape.outputs), shape.dtype
        )

        def one(b: Expr, p: Expr, column: Expr, panel: tuple[int, ...], run: Run) -> None:
            starts = emit.offsets(panel)
            acc = emit.accumulators(run.count, panel, shape.dtype)
            for v, lanes in enumerate(panel):
                for i in range(run.count):
                    acc.set(i, v, emit.load(bias, column + starts[v], lanes=lanes))

            def channel(c: Expr, r: int) -> None:
                for s in range(right.taps):
                    base = column * shape.inputs * taps + ((c * taps) + r * right.taps + s) * sum(
                        panel
                    )
                    order = [(i, v) for i in range(run.count) for v in range(len(panel))]
                    if len(panel) > run.count:
                        order.sort(key=lambda at: at[1])
                    for i, v in order:
                        if run.skips(right, i, s):
                            continue
                        at = (down.source(p, r), right.source(run.start + i, s))
                        value = x[(b, c, *at) if shape.channels_first else (b, *at, c)]
                        acc.add_product(
                            i,
                            v,
                            emit.splat(value, panel[v], shape.dtype),
                            emit.load(w, base + starts[v], lanes=panel[v]),
                        )

            for r in range(down.taps):
                with emit.when(down.inside(p, r)):
                    if unrolled:
                        for c in range(shape.inputs):
                            channel(c, r)
                    else:
                        with emit.loop(shape.inputs) as c:
                            channel(c, r)
            for i in range(run.count):
                for v, lanes in enumerate(panel):
                    value = shape.activation.apply(acc.get(i, v), lanes, shape.dtype)
                    emit.store(y, value, b, p, run.start + i, column + starts[v], lanes=lanes)

        with (
            emit.loop(shape.batch) as b,
            emit.loop(down.outputs, parallel=machine.worthwhile(shape.madds)) as p,
        ):
            for panel in _panels(shape, tile, machine):
                with emit.loop(panel.count) as j:
                    column = panel.first + j * panel.columns
                    for_each_run(right, tile.run, 0, partial(one, b, p, column, panel.widths))

    return emit.build_kernel("convolution", body)


def _panels(shape: Convolution, tile: Tile, machine: Machine) -> list[Panels]:
    return panels.panels(shape.outputs, machine.lanes(shape.dtype), tile.vectors)


def _cost(shape: Convolution, tile: Tile, machine: Machine) -> float:
    """Estimate the instructions of an output row, per input channel and tap."""
    full = shape.horizontal.outputs // tile.run
    rest = shape.horizontal.outputs % tile.run
    cost = 0.0
    for panel in _panels(shape, tile, machine):
        for run, runs in ((tile.run, full), (rest, 1 if rest else 0)):
            products = run * len(panel.widths)
            loads = run + len(panel.widths) / 2
            waits = max(0.0, machine.fma_chains - products)
            hidden = loads if machine.lane_operands else max(0.0, loads - products)
            cost += panel.count * runs * (products + hidden + waits + 0.5)
    return cost
