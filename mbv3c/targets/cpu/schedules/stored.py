"""Weights in bf16 or int8, which are widened to fp32 in registers.

Several vectors of weights lie in one vector of words of 32 bits: a lane of every vector in a word,
the first vector's in its lowest bits. So a load and a shift per vector widen them, where they
would otherwise have to be moved between lanes.

bf16, two vectors a, b: a word is b·2¹⁶ + a, as bits; a shift or a mask makes each an fp32.

int8, four vectors a, b, c, d: a word is d·2²⁴ + c·2¹⁶ + b·2⁸ + a, a sum of signed numbers. Shifted
until its own number is on top, and converted, a word gives each vector and 2⁻⁸ of the one before:

    A = Σ x·float(word << 24) = 2²⁴ Σ x·a
    B = Σ x·float(word << 16) = 2²⁴ Σ x·b + 2⁻⁸ A
    C = Σ x·float(word << 8)  = 2²⁴ Σ x·c + 2⁻⁸ B
    D = Σ x·float(word)       = 2²⁴ Σ x·d + 2⁻⁸ C

What is too much is taken away once per output, with the scale. Only the last conversion rounds, by
2⁻²⁴ of the largest weight at most.

Vectors that fill no word are converted one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from mbv3c.graphs.narrow import AS_BF16, to_bf16, to_int8
from mbv3c.lowering.plan import Array
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr, Panels
from mbv3c.targets.cpu.cores import Processor

_WORD_BITS = 32
_BF16_BITS = 16
_INT8_BITS = 8
_HIGH_HALF = -(1 << _BF16_BITS)  # a mask, as an int32
_TOP = 2.0 ** (_WORD_BITS - _INT8_BITS)
_BELOW = 2.0**-_INT8_BITS


@dataclass(frozen=True)
class Storage:
    """How weights lie in memory.

    Attributes:
        dtype: the type of the array.
        together: the number of vectors that share words.
        scaled: whether sums are multiplied by a scale.
    """

    dtype: str
    together: int
    scaled: bool


_BF16, _INT8 = Storage("uint16", 2, False), Storage("int8", 4, True)


def storage_of(stored: str) -> Storage:
    """Return how weights lie in memory that are stored as one of `STORED`."""
    return _BF16 if stored == AS_BF16 else _INT8


def panels(columns: int, lanes: int, stored: str, vectors: int) -> list[Panels]:
    """Cut columns into panels of at most `vectors` vectors, each width as wide as whole words.

    The widths of a panel are groups: those of `together` vectors, and at the end narrower ones.
    """
    together = storage_of(stored).together
    return emit.panels(columns, lanes * together, max(1, vectors // together))


def vector_counts(together: int, most: int) -> list[int]:
    """Return every number of vectors that a panel may have: whole groups."""
    return list(range(together, most + 1, together))


def pack(
    weights: NDArray[np.float32], runs: Sequence[Panels], lanes: int, stored: str
) -> tuple[Array, ...]:
    """Return weights [N, K] as one array, and of int8 the scales [N]: what the kernel multiplies.

    The array is all panels, one after another, each [K][columns]; the columns of a group that
    fills words lie lane by lane.
    """
    storage = storage_of(stored)
    if not storage.scaled:
        return (_arranged(to_bf16(weights), runs, lanes, storage),)
    integers, scales = to_int8(weights)
    scales = scales.copy()
    for first, width in _groups(runs):
        if width == storage.together * lanes:
            scales[first : first + width] /= np.float32(_TOP)
    return _arranged(integers, runs, lanes, storage), scales


def _arranged(codes: Array, runs: Sequence[Panels], lanes: int, storage: Storage) -> Array:
    rows, parts = codes.T, []
    bits = _WORD_BITS // storage.together
    for run in runs:
        for panel in range(run.count):
            first, groups = run.first + panel * run.columns, []
            for at, width in zip(emit.offsets(run.widths), run.widths, strict=True):
                block = rows[:, first + at : first + at + width]
                if width == storage.together * lanes:
                    vectors = block.reshape(-1, storage.together, lanes).astype(np.int64)
                    shifts = (1 << (bits * np.arange(storage.together)))[None, :, None]
                    sums = (vectors * shifts).sum(axis=1) % (1 << _WORD_BITS)
                    words = np.ascontiguousarray(sums.astype("<u4"))
                    block = words.view(np.dtype(codes.dtype).newbyteorder("<"))
                groups.append(block)
            parts.append(np.concatenate(groups, axis=1).ravel())
    return np.concatenate(parts).astype(storage.dtype, copy=False)


def _groups(runs: Sequence[Panels]) -> list[tuple[int, int]]:
    """Return the first column and the width of every group."""
    return [
        (run.first + panel * run.columns + at, width)
        for run in runs
        for panel in range(run.count)
        for at, width in zip(emit.offsets(run.widths), run.widths, strict=True)
    ]


@dataclass(frozen=True)
class Panel:
    """A panel of stored weights, as a kernel reads it.

    Attributes:
        groups: the widths of its groups.
        lanes: the lanes of a full vector of fp32.
        stored: one of `STORED`.
    """

    groups: tuple[int, ...]
    lanes: int
    stored: str

    @property
    def widths(self) -> tuple[int, ...]:
        """The lanes of each vector of sums."""
        return tuple(width for group in self.groups for width in self._vectors(group))

    def _vectors(self, group: int) -> tuple[int, ...]:
        return emit.vectors(group, self.lanes)

    def _fills(self, group: int) -> bool:
        return group == self.lanes * storage_of(self.stored).together

    def weights(self, w: Buffer, at: Expr) -> list[Expr]:
        """Return the weights of one place along K as fp32, a vector for each of `widths`."""
        made: list[Expr] = []
        for first, group in zip(emit.offsets(self.groups), self.groups, strict=True):
            if self._fills(group):
                loaded = emit.load(w, at + first, lanes=group)
                words = emit.held(
                    tirx.reinterpret(emit.vector_type("int32", self.lanes), loaded),
                    self.lanes,
                    "int32",
                )
                made += self._widened(words)
                continue
            widths = self._vectors(group)
            for start, width in zip(emit.offsets(widths), widths, strict=True):
                loaded = emit.load(w, at + first + start, lanes=width)
                made.append(self._converted(loaded, width))
        return made

    def _widened(self, words: Expr) -> list[Expr]:
        def shifted(bits: int) -> Expr:
            return words << emit.splat(bits, self.lanes, "int32") if bits else words

        if storage_of(self.stored).scaled:
            tops = range(_WORD_BITS - _INT8_BITS, -1, -_INT8_BITS)
            return [emit.cast(shifted(bits), self.lanes, "float32") for bits in tops]
        high = words & emit.splat(_HIGH_HALF, self.lanes, "int32")
        wide = emit.vector_type("float32", self.lanes)
        return [tirx.reinterpret(wide, each) for each in (shifted(_BF16_BITS), high)]

    def _converted(self, loaded: Expr, lanes: int) -> Expr:
        if storage_of(self.stored).scaled:
            return emit.cast(loaded, lanes, "float32")
        bits = emit.cast(loaded, lanes, "uint32") << emit.splat(_BF16_BITS, lanes, "uint32")
        return tirx.reinterpret(emit.vector_type("float32", lanes), bits)

    def begin(self, rows: int, bias: Buffer, first: Expr) -> Accumulators:
        """Declare the sums of a tile: with the bias, or without it where they will be scaled."""
        if not storage_of(self.stored).scaled:
            return emit.biased_accumulators(rows, self.widths, "float32", bias, first)
        sums = emit.accumulators(rows, self.widths, "float32")
        sums.clear()
        return sums

    def results(
        self, sums: Accumulators, row: int, scales: Buffer | None, bias: Buffer, first: Expr
    ) -> list[Expr]:
        """Return what the sums of a row come to, with their bias."""
        if scales is None:
            return [sums.get(row, vector) for vector in range(len(self.widths))]
        made, vector = [], 0
        starts = list(accumulate(self.widths, initial=0))
        for group in self.groups:
            widths = self._vectors(group)
            for place, width in enumerate(widths):
                own = sums.get(row, vector)
                if place and self._fills(group):
                    below = sums.get(row, vector - 1) * emit.splat(_BELOW, width, "float32")
                    own = own - below
                scale, added = (
                    emit.load(each, first + starts[vector], lanes=width) for each in (scales, bias)
                )
                made.append(own * scale + added)
                vector += 1
        return made


def add_products(
    panel: Panel,
    sums: Accumulators,
    w: Buffer,
    start: Expr,
    terms: int,
    rows: Sequence[tuple[Buffer, tuple[Expr, ...]]],
    processor: Processor,
) -> None:
    """Add all products of a tile, over K.

    Args:
        panel: the panel, whose weights begin at `start` of `w`.
        sums: the sums of the tile.
        w: the packed weights.
        start: where in `w` the panel begins.
        terms: the length of K.
        rows: for each row of the tile an array of fp32, and the index before that along K.
        processor: the processor that runs the kernel.
    """
    step = processor.lanes("float32") if processor.lane_operands else 1
    columns, full = sum(panel.groups), terms // step
    # A turn takes one step: of several, LLVM widens the weights ahead, and stores what it has no
    # registers for.
    with emit.loop(full) as turn:
        first = turn * step
        loaded = [
            emit.lanes_of(x, *index, first, lanes=step, dtype="float32") for x, index in rows
        ]
        for place in range(step):
            at = start + (first + place) * columns
            _add_place(panel, sums, w, at, [lane(place) for lane in loaded])
    for place in range(full * step, terms):
        at = start + place * columns
        _add_place(panel, sums, w, at, [x[(*index, place)] for x, index in rows])


def _add_place(
    panel: Panel, sums: Accumulators, w: Buffer, at: Expr, factors: Sequence[Expr]
) -> None:
    """Add the products of one place along K: a factor for each row, and weights from `at` on."""
    for vector, (weight, width) in enumerate(zip(panel.weights(w, at), panel.widths, strict=True)):
        held = emit.held(weight, width, "float32") if len(factors) > 1 else weight
        for row, factor in enumerate(factors):
            sums.add_product(row, vector, emit.splat(factor, width, "float32"), held)
