"""Words in which the kernels are written: vectors, accumulators, tiles.

The kernels are low-level TensorIR: loops, vector loads and vector stores. Accumulators are `local`
buffers of vectors, indexed by constants; LLVM keeps them in registers. A Python loop is an
unrolled loop of the kernel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

Expr = Any  # a TensorIR expression or a Python number; TVM has no types for mypy
Buffer = Any


@dataclass(frozen=True)
class Activation:
    """y = clip(scale·x + shift, low, high), times x where `gated`.

    ReLU, ReLU6, Clip, HardSigmoid and HardSwish are all of this form, and none needs a division.

    Attributes:
        scale: factor of x; 1 for clips.
        shift: summand after the factor.
        low, high: bounds; None for no bound.
        gated: whether the result is multiplied by x (HardSwish).
    """

    low: float | None = None
    high: float | None = None
    scale: float = 1.0
    shift: float = 0.0
    gated: bool = False

    def apply(self, x: Expr, lanes: int, dtype: str) -> Expr:
        """Return the activation of a vector."""
        y = x
        if self.scale != 1.0:
            y = y * splat(self.scale, lanes, dtype)
        if self.shift != 0.0:
            y = y + splat(self.shift, lanes, dtype)
        if self.high is not None:
            y = T.min(y, splat(self.high, lanes, dtype))
        if self.low is not None:
            y = T.max(y, splat(self.low, lanes, dtype))
        return x * y if self.gated else y


LINEAR = Activation()
RELU = Activation(low=0.0)
HARD_SIGMOID = Activation(0.0, 1.0, scale=1 / 6, shift=0.5)
HARD_SWISH = Activation(0.0, 1.0, scale=1 / 6, shift=0.5, gated=True)


# How far from a pointer NEON loads pairs of vectors ("LDP", a signed offset of 7 bits times 16).
PAIRED_LOAD_BYTES = 1024
KERNEL = "mbv3c.kernel"  # the attribute of functions whose temporaries are registers


def build_kernel(name: str, body: Callable[[], None]) -> PrimFunc:
    """Make a function whose arguments and statements `body` declares."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, KERNEL: True})
        body()
    return builder.get()


def argument(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    """Declare the next argument of the kernel, a tensor."""
    return T.arg(name, T.buffer(tuple(shape), dtype))


def vectors(extent: int, lanes: int) -> tuple[int, ...]:
    """Cover `extent` with vectors of `lanes`, and the rest with halves, quarters and so on."""
    covered = [lanes] * (extent // lanes)
    rest = extent % lanes
    while rest:
        lanes //= 2
        if rest >= lanes:
            covered.append(lanes)
            rest -= lanes
    return tuple(covered)


def offsets(widths: Sequence[int]) -> list[int]:
    """Return where each of several adjacent vectors starts."""
    return list(accumulate(widths[:-1], initial=0)) if widths else []


def load(buffer: Buffer, *index: Expr, lanes: int) -> Expr:
    """Load `lanes` adjacent values; the last index is where they start."""
    *outer, start = index
    return buffer[(*outer, _span(start, lanes))]


def store(buffer: Buffer, value: Expr, *index: Expr, lanes: int) -> None:
    """Store `lanes` adjacent values; the last index is where they start."""
    *outer, start = index
    T.buffer_store(buffer, value, [*outer, _span(start, lanes)])


def splat(value: Expr, lanes: int, dtype: str) -> Expr:
    """Return a vector with the same value in every lane."""
    if isinstance(value, float | int):
        value = tirx.const(value, dtype)
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


HALF_SUM = 96  # products that are added in half precision before single precision takes their sum


def sum_type(dtype: str) -> str:
    """Return the type for long sums of `dtype`: half precision would lose digits, or overflow."""
    return "float32" if dtype == "float16" else dtype


def cast(value: Expr, lanes: int, dtype: str) -> Expr:
    """Convert a vector to a type, unless it has that type."""
    wanted = vector_type(dtype, lanes)
    return value if str(value.ty.dtype) == wanted else tirx.Cast(wanted, value)


# Gives one value, by its index, of a vector that was loaded.
Lane = Callable[[int], Expr]


def lanes_of(buffer: Buffer, *index: Expr, lanes: int, dtype: str) -> Lane:
    """Load `lanes` adjacent values at once, as `dtype`; return what gives each value."""
    if lanes == 1:
        return lambda _: cast(buffer[tuple(index)], 1, dtype)
    held = _registers(1, lanes, dtype)
    T.buffer_store(held, cast(load(buffer, *index, lanes=lanes), lanes, dtype), [0])
    return lambda i: tirx.Shuffle([held[0]], [i])


def held(value: Expr, lanes: int, dtype: str) -> Expr:
    """Compute a vector once and keep it in a register."""
    register = _registers(1, lanes, dtype)
    T.buffer_store(register, value, [0])
    return register[0]


def vector_type(dtype: str, lanes: int) -> str:
    """Return the name of a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def intrinsic(dtype: str, lanes: int, name: str, *arguments: Expr) -> Expr:
    """Return a call of an LLVM intrinsic, by its name."""
    return tirx.call_llvm_pure_intrin(vector_type(dtype, lanes), f"llvm.{name}", *arguments)


@contextmanager
def llvm(source: str) -> Iterator[None]:
    """Give what follows functions in LLVM's language, which `extern` calls and LLVM inlines."""
    with T.attr(tirx.const(0), "pragma_import_llvm", source):
        yield


def extern(dtype: str, lanes: int, name: str, *arguments: Expr) -> Expr:
    """Return a call of a function of `llvm` that depends on its arguments alone."""
    return tirx.call_pure_extern(vector_type(dtype, lanes), name, *arguments)


@dataclass(frozen=True)
class Accumulators:
    """A tile of registers: `rows` rows of vectors, each row of `widths` lanes."""

    rows: int
    widths: tuple[int, ...]
    columns: tuple[Buffer, ...]
    dtype: str

    def get(self, row: int, column: int) -> Expr:
        return self.columns[column][row]

    def set(self, row: int, column: int, value: Expr) -> None:
        T.buffer_store(self.columns[column], value, [row])

    def add_product(self, row: int, column: int, a: Expr, b: Expr) -> None:
        """Add a product; LLVM contracts this to a fused multiply-add."""
        self.set(row, column, self.get(row, column) + a * b)

    def clear(self) -> None:
        """Set all accumulators to 0."""
        for row, column in self.places():
            self.set(row, column, splat(0.0, self.widths[column], self.dtype))

    def add(self, other: "Accumulators") -> None:
        """Add another tile, which may be of another type."""
        for row, column in self.places():
            value = cast(other.get(row, column), self.widths[column], self.dtype)
            self.set(row, column, self.get(row, column) + value)

    def places(self) -> list[tuple[int, int]]:
        """Return every row and column, ordered so that few operands are needed at a time."""
        places = [(row, column) for row in range(self.rows) for column in range(len(self.widths))]
        if len(self.widths) > self.rows:
            places.sort(key=lambda place: place[1])
        return places


def accumulators(rows: int, widths: Sequence[int], dtype: str) -> Accumulators:
    """Declare accumulators without a value."""
    columns = tuple(_registers(rows, lanes, dtype) for lanes in widths)
    return Accumulators(rows, tuple(widths), columns, dtype)


def biased_accumulators(
    rows: int, widths: Sequence[int], dtype: str, bias: Buffer, first: Expr
) -> Accumulators:
    """Declare accumulators that hold, in every row, the bias of the columns from `first` on."""
    acc = accumulators(rows, widths, dtype)
    for column, (at, lanes) in enumerate(zip(offsets(widths), widths, strict=True)):
        for row in range(rows):
            acc.set(row, column, cast(load(bias, first + at, lanes=lanes), lanes, dtype))
    return acc


@contextmanager
def loop(extent: int, *, parallel: bool = False) -> Iterator[Expr]:
    """Loop, unless there is only one turn.

    The variable has 64 bits. A narrower one might wrap, for all that LLVM knows; LLVM would then
    compute and widen every index separately instead of using offsets.
    """
    if extent == 1:
        yield 0
        return
    first, turns = tirx.const(0, "int64"), tirx.const(extent, "int64")
    with (T.parallel if parallel else T.serial)(first, turns) as variable:
        yield variable


@contextmanager
def opaque_loop(extent: int) -> Iterator[Expr]:
    """Loop `extent` times, a number that LLVM must not know: it would unroll and mix loops."""
    with T.serial(tirx.const(0, "int64"), _opaque(extent)) as variable:
        yield variable


def separate(index: Expr, number: int) -> Expr:
    """Return an index of which LLVM must not know that it is a multiple, or equal to another.

    It would compute the place of each of several adjacent vectors by itself, instead of using
    offsets from one pointer: by an "or" from a multiple, and for two arrays together from an index
    that they share. Indices that must not be found equal take different numbers from 1 on.
    """
    number *= 4  # what is added and what is taken away leave paired loads their alignment
    return index + (_opaque(number) - number)


def _opaque(number: int) -> Expr:
    """Return a number that LLVM does not know."""
    constant = tirx.const(float(number), "float32")
    return tirx.Cast("int64", intrinsic("float32", 1, "arithmetic.fence", constant))


@contextmanager
def when(conditions: Sequence[Expr]) -> Iterator[None]:
    """Execute what follows where all conditions hold."""
    if not conditions:
        yield
        return
    with T.If(all_of(conditions)), T.Then():
        yield


def all_of(conditions: Sequence[Expr]) -> Expr:
    """Return the condition that all conditions hold."""
    return conditions[0] if len(conditions) == 1 else tirx.all(*conditions)


def scratch(size: int, dtype: str) -> Buffer:
    """Declare memory on the stack."""
    return T.alloc_buffer(
        (size,), dtype, scope="local", annotations={"disable_lower_builtin": True}
    )


def _registers(count: int, lanes: int, dtype: str) -> Buffer:
    """Declare vectors on the stack, which LLVM keeps in registers, not in TVM's workspace."""
    return scratch(count, vector_type(dtype, lanes))


def _span(start: Expr, lanes: int) -> Expr:
    return start if lanes == 1 else tirx.Ramp(start, 1, lanes)


@dataclass(frozen=True)
class Panels:
    """A run of adjacent panels of equal widths.

    Attributes:
        first: first column of the first panel.
        widths: lanes of each vector of a panel.
        count: number of panels.
    """

    first: int
    widths: tuple[int, ...]
    count: int

    @property
    def columns(self) -> int:
        """Columns of one panel."""
        return sum(self.widths)


def panels(columns: int, lanes: int, most: int) -> list[Panels]:
    """Cut columns into panels of at most `most` vectors, as evenly as possible."""
    widths = vectors(columns, lanes)
    count = -(-len(widths) // most)
    cuts = [-(-len(widths) * i // count) for i in range(count + 1)]
    starts = offsets(widths)
    runs: list[Panels] = []
    for a, b in pairwise(cuts):
        if runs and runs[-1].widths == widths[a:b]:
            runs[-1] = Panels(runs[-1].first, widths[a:b], runs[-1].count + 1)
        else:
            runs.append(Panels(starts[a], widths[a:b], 1))
    return runs


def for_each_tile(
    rows: int,
    tile_rows: int,
    runs: Sequence[Panels],
    *,
    rows_outer: bool,
    parallel: bool,
    body: Callable[[Expr, Panels, Expr], None],
    around: Callable[[Expr], AbstractContextManager[None]] | None = None,
) -> None:
    """Emit `body` for every tile of a product.

    The last block of rows begins early enough to be whole; some rows are computed twice.

    Args:
        rows: rows of the product.
        tile_rows: rows of a tile.
        runs: panels of the product's columns.
        rows_outer: whether the tiles of a row block follow each other, or those of a panel.
        parallel: whether the outer loop is shared between cores.
        body: emits the code of a tile, from its first row, its run of panels and its first column.
        around: emits what stands before and behind the tiles of a row block that follow each
            other, from its first row.
    """
    blocks = -(-rows // tile_rows)

    def row_of(i: Expr) -> Expr:
        return i * tile_rows if rows % tile_rows == 0 else T.min(i * tile_rows, rows - tile_rows)

    def emit_tile(i: Expr, run: Panels, j: Expr) -> None:
        body(row_of(i), run, run.first + j * run.columns)

    if rows_outer:
        surround = around or (lambda row: nullcontext())
        with loop(blocks, parallel=parallel) as i, surround(row_of(i)):
            for run in runs:
                with loop(run.count) as j:
                    emit_tile(i, run, j)
        return
    for run in runs:
        with loop(run.count, parallel=parallel) as j, loop(blocks) as i:
            emit_tile(i, run, j)


def pack(weights: NDArray[Any], runs: Sequence[Panels], *, axis: int) -> NDArray[Any]:
    """Return weights as one array, panel by panel; the columns are the axis `axis` of weights."""
    before = (slice(None),) * axis
    parts = [
        weights[(*before, slice(run.first + i * run.columns, run.first + (i + 1) * run.columns))]
        for run in runs
        for i in range(run.count)
    ]
    return np.concatenate([part.ravel() for part in parts])


def turns(steps: int, step_bytes: int) -> int:
    """Return how many steps one turn of a loop takes, to spread the cost of looping.

    The weights of a turn stay within the reach of NEON's paired loads from one pointer.
    """
    reach = max(1, PAIRED_LOAD_BYTES // step_bytes)
    return max(turns for turns in (1, 2, 4) if steps % turns == 0 and turns <= reach)
