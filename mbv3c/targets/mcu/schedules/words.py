"""Words in which kernels for Cortex-M are written: pairs of int16, dot products of Helium.

Loops count in 32 bits, as the core does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization


@contextmanager
def loop(extent: int) -> Iterator[Expr]:
    """Loop, unless there is only one turn."""
    if extent == 1:
        yield 0
        return
    with T.serial(0, extent) as variable:
        yield variable


def word(buffer: Buffer, *index: Expr) -> Expr:
    """Load four adjacent int8 as an int32; the last index is where they start."""
    loaded = tirx.reinterpret("int32", emit.load(buffer, *index, lanes=GROUP))
    return emit.held(loaded, 1, "int32")


def pairs(four: Expr) -> tuple[Expr, Expr]:
    """Widen the four int8 of an int32: the first and third as int16, the second and fourth."""
    turned = emit.intrinsic("int32", 1, "fshr", four, four, tirx.const(8, "int32"))
    return _sxtb16(four), _sxtb16(turned)


def _sxtb16(four: Expr) -> Expr:
    return emit.held(emit.intrinsic("int32", 1, "arm.sxtb16", four), 1, "int32")


def add_pairs(acc: Expr, one: Expr, other: Expr) -> Expr:
    """Add the products of two int16 with two others."""
    return emit.intrinsic("int32", 1, "arm.smlad", one, other, acc)


def add_dot(acc: Expr, one: Expr, other: Expr) -> Expr:
    """Add all products of two vectors of 16 bytes."""
    flags = [tirx.const(0, "int32")] * 3  # signed, added, not crossed
    return emit.intrinsic("int32", 1, "arm.mve.vmldava", *flags, acc, one, other)


# How many int8 fill a vector of 16 bytes, as int8, int16 or int32.
_WIDENED = {16: "int8", 8: "int16", 4: "int32"}


def load_widened(buffer: Buffer, *index: Expr, lanes: int) -> Expr:
    """Load 16, 8 or 4 adjacent int8 as a vector of 16 bytes."""
    loaded = emit.cast(emit.load(buffer, *index, lanes=lanes), lanes, _WIDENED[lanes])
    return emit.held(loaded, lanes, _WIDENED[lanes])


@dataclass(frozen=True)
class Chunk:
    """Adjacent int8 of a row that one step takes.

    Attributes:
        start: the first of them.
        lanes: their number.
        known: how many of the first ones a chunk before has taken; their weights are 0.
        turns: how often the step repeats, each time on the next int8.
    """

    start: int
    lanes: int
    known: int = 0
    turns: int = 1


def chunks(inputs: int, processor: Processor) -> list[Chunk]:
    """Cut a row of at least four int8 into chunks; the last begins early enough to be whole."""
    widest = (16, 8, 4) if processor.integers == "helium" else (GROUP,)
    made, at = list[Chunk](), 0
    for lanes in widest:
        turns = (inputs - at) // lanes
        if turns:
            made.append(Chunk(at, lanes, turns=turns))
            at += turns * lanes
    if at < inputs:
        start = inputs - GROUP
        made.append(Chunk(start, GROUP, at - start))
    return made


def depth(inputs: int, processor: Processor) -> int:
    """Return how many weights are stored for an output."""
    return sum(chunk.lanes * chunk.turns for chunk in chunks(inputs, processor))


def pack(weights: NDArray[np.int8], columns: int, processor: Processor) -> NDArray[np.int8]:
    """Return weights [N, K] panel by panel, as [N / columns][chunk][turn][columns][lanes].

    N is filled up with zeros to a multiple of `columns`.
    """
    outputs, inputs = weights.shape
    filled = np.zeros((-(-outputs // columns) * columns, inputs), np.int8)
    filled[:outputs] = weights
    panels = filled.reshape(-1, columns, inputs)
    taken = []
    for chunk in chunks(inputs, processor):
        part = panels[:, :, chunk.start : chunk.start + chunk.lanes * chunk.turns].copy()
        part[:, :, : chunk.known] = 0
        turned = part.reshape(len(panels), columns, chunk.turns, chunk.lanes)
        taken.append(turned.transpose(0, 2, 1, 3).reshape(len(panels), -1))
    return np.concatenate(taken, axis=1).ravel()


@dataclass(frozen=True)
class Layer:
    """What makes int8 of sums: the arguments of a kernel behind its input.

    Attributes:
        weights, bias, scale: as packed; bias and scale have one number for every column.
        table: what the results are looked up in; None without.
        output: how sums become int8.
        processor: the core.
    """

    weights: Buffer
    bias: Buffer
    scale: Buffer
    table: Buffer | None
    output: Requantization
    processor: Processor

    def round(self, sums: Sequence[Expr], first: Expr) -> Expr:
        """Return adjacent sums as a vector of int8; `first` is the column of the first."""
        count, processor = len(sums), self.processor
        parts = integer.parts(count, processor)
        if processor.integers == "helium" and count == GROUP:
            sums, parts = [tirx.Shuffle(list(sums), list(range(count)))], (count,)
        values = integer.scaled(sums, self.scale, first, parts)
        return integer.narrow(values, parts, self.output, self.table, processor)


def add_rows(
    x: Buffer, rows: Sequence[Sequence[Expr]], layer: Layer, panel: Expr, columns: int, inputs: int
) -> list[list[Expr]]:
    """Return the sums of some rows of x with the columns of a panel, and their biases.

    Args:
        x: buffer of int8.
        rows: for every row the index in x of its first int8.
        layer: weights and biases.
        panel: number of the panel.
        columns: columns of a panel.
        inputs: int8 of a row.
    """
    processor = layer.processor
    acc = emit.accumulators(len(rows), (1,) * columns, "int32")
    for i, j in acc.places():
        acc.set(i, j, layer.bias[panel * columns + j])
    base, before = panel * (depth(inputs, processor) * columns), 0
    for chunk in chunks(inputs, processor):
        lanes = chunk.lanes
        with loop(chunk.turns) as turn:
            at = base + before + turn * (lanes * columns)
            step = chunk.start + turn * lanes
            places = [(*index[:-1], index[-1] + step) for index in rows]
            if processor.integers == "helium":
                values = [load_widened(x, *place, lanes=lanes) for place in places]
                for j in range(columns):
                    weights = load_widened(layer.weights, at + j * lanes, lanes=lanes)
                    for i, value in enumerate(values):
                        acc.set(i, j, add_dot(acc.get(i, j), value, weights))
            else:
                halves = [pairs(word(x, *place)) for place in places]
                for j in range(columns):
                    weights = pairs(word(layer.weights, at + j * lanes))
                    for half in (0, 1):
                        for i, value in enumerate(halves):
                            acc.set(i, j, add_pairs(acc.get(i, j), value[half], weights[half]))
        before += lanes * chunk.turns * columns
    return [[acc.get(i, j) for j in range(columns)] for i in range(len(rows))]
