"""Words in which the integer kernels are written: dot products, rounding, tables.

Products of int8 are added in int32. A sum becomes int8 again as onnxruntime's QuantizeLinear makes
it: times an fp32 factor, rounded with halves to even, shifted by the zero point, saturated. What
follows it in 8 bits, such as a hard-swish, is a table of 256 entries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.processor import Processor

VECTOR = 16  # int8 values that are made at once
GROUP = 4  # products that a dot product adds
_NEON = ("neon", "dotprod")
_OFFSET = -0x7F7F7F80  # 0x80808080 in int32: added to four int8 without a carry makes them uint8
_TABLE = 256


@dataclass(frozen=True)
class Output:
    """How sums become int8.

    Attributes:
        zero: the zero point.
        low, high: bounds of the integers, where a clamp follows.
        lookup: whether each of them is then looked up in a table.
    """

    zero: int
    low: int = -128
    high: int = 127
    lookup: bool = False

    @property
    def typical(self) -> "Output":
        """The one of all that take the same instructions: which numbers they take is no matter."""
        low, high = (0 if self.low > -128 else -128), (0 if self.high < 127 else 127)
        return Output(min(1, abs(self.zero)), low, high, self.lookup)


def has_dot(machine: Processor) -> bool:
    """Say whether four products are added by one instruction."""
    return machine.integers in ("dotprod", "vnni")


def weight_type(machine: Processor) -> str:
    """Return the type of packed weights: where products widen, they are wide already."""
    return "int8" if has_dot(machine) else "int16"


def parts(width: int, machine: Processor) -> tuple[int, ...]:
    """Cut a vector of int8 into vectors of int32 that fit registers."""
    lanes = min(width, max(1, machine.vector_bytes // 4))
    return (lanes,) * (width // lanes)


def parts_of(widths: Sequence[int], machine: Processor) -> tuple[int, ...]:
    """Cut several adjacent vectors likewise."""
    return tuple(part for width in widths for part in parts(width, machine))


def intrinsic(dtype: str, lanes: int, name: str, *arguments: Expr) -> Expr:
    """Return a call of an instruction by its name in LLVM."""
    return tirx.call_llvm_pure_intrin(emit.vector_type(dtype, lanes), f"llvm.{name}", *arguments)


# ---- products ----


def add_dot(acc: Expr, weights: Expr, four: Expr, lanes: int, machine: Processor) -> Expr:
    """Add the products of four int8, given as an int32, with 4·lanes weights.

    On x86 the four must be those of `unsigned`.
    """
    repeated = four if lanes == 1 else tirx.Broadcast(four, lanes)
    operand = tirx.reinterpret(f"int8x{GROUP * lanes}", repeated)
    if machine.integers == "dotprod":
        return intrinsic("int32", lanes, "aarch64.neon.sdot", acc, weights, operand)
    name = f"x86.avx512.vpdpbusd.{32 * lanes}"
    return intrinsic("int32", lanes, name, acc, operand, weights)


def fours(x: Buffer, *index: Expr, count: int, machine: Processor) -> Callable[[int], Expr]:
    """Load `count` times four adjacent int8 at once; return what gives each four as an int32."""
    if count == 1 or machine.integers == "vnni":
        *outer, start = index

        def one(i: int) -> Expr:
            loaded = emit.load(x, *outer, start + GROUP * i, lanes=GROUP)
            return unsigned(tirx.reinterpret("int32", loaded), machine)

        return one
    words = tirx.reinterpret(f"int32x{count}", emit.load(x, *index, lanes=GROUP * count))
    held = emit.held(words, count, "int32")
    return lambda i: tirx.Shuffle([held], [i])


def unsigned(four: Expr, machine: Processor) -> Expr:
    """Return four int8 as the machine multiplies them: x86 takes uint8, 128 more."""
    return four ^ tirx.const(_OFFSET, "int32") if machine.integers == "vnni" else four


def correction(zero: int, sums: NDArray[Any], machine: Processor) -> NDArray[np.int64]:
    """Return what to add to biases for inputs that are counted from `zero`.

    Args:
        zero: the inputs' zero point.
        sums: of the weights of each output.
        machine: whose inputs may be 128 more than they are.
    """
    shift = zero + (128 if machine.integers == "vnni" else 0)
    return -shift * sums.astype(np.int64)


def constant_four(zero: int, machine: Processor) -> Expr:
    """Return four times an int8, as an int32 for `add_dot`."""
    value = int(np.frombuffer(np.full(GROUP, zero, np.int8).tobytes(), "<i4")[0])
    return unsigned(tirx.const(value, "int32"), machine)


def interleaved(rows: Sequence[Expr], lanes: int) -> list[Expr]:
    """Interleave up to four vectors of 8 or 16 int8; the rest of each four is arbitrary.

    Returns:
        For every four lanes, those of all rows as an operand of a dot product.
    """
    a, b, c, d = (emit.held(rows[min(i, len(rows) - 1)], lanes, "int8") for i in range(GROUP))
    if lanes == 8:  # a pair of rows fills a whole vector
        pairs = [(_zipped(a, b, 8, "int8", 0), _zipped(c, d, 8, "int8", 0))]
    else:
        pairs = [(_zipped(a, b, 8, "int8", at), _zipped(c, d, 8, "int8", at)) for at in (0, 8)]
    made = []
    for pair in pairs:
        first, second = (tirx.reinterpret("int16x8", one) for one in pair)
        made += [_zipped(first, second, 4, "int16", at) for at in (0, 4)]
    return [tirx.reinterpret("int8x16", one) for one in made]


def _zipped(a: Expr, b: Expr, count: int, dtype: str, first: int) -> Expr:
    """Return `count` lanes of each of two vectors, from `first` on, one after the other."""
    lanes = int(a.ty.dtype.lanes)
    order = [at + lanes * side for at in range(first, first + count) for side in (0, 1)]
    return emit.held(tirx.Shuffle([a, b], order), 2 * count, dtype)


# ---- rounding ----


def scaled(sums: Sequence[Expr], scale: Buffer, first: Expr, widths: Sequence[int]) -> list[Expr]:
    """Multiply sums by the factors of their columns."""
    starts = emit.offsets(widths)
    return [
        tirx.Cast(emit.vector_type("float32", lanes), value)
        * emit.load(scale, first + at, lanes=lanes)
        for value, at, lanes in zip(sums, starts, widths, strict=True)
    ]


def narrow(
    values: Sequence[Expr],
    widths: Sequence[int],
    output: Output,
    table: Buffer | None,
    machine: Processor,
) -> Expr:
    """Round adjacent fp32 vectors to one vector of int8."""
    width = sum(widths)
    if machine.integers in _NEON and width >= GROUP:
        result = _narrow_neon(values, output, width)
    else:
        result = _narrow(values, widths, output)
    if table is None:
        return result
    return look_up(table, emit.held(result, width, "int8"), width, machine)


def look_up(table: Buffer, held: Expr, width: int, machine: Processor) -> Expr:
    """Return the entries of a table for the int8 in a register."""
    if machine.integers in _NEON and width >= GROUP:
        return _look_up_neon(table, held, width)
    index = tirx.Cast(emit.vector_type("int32", width), held) & emit.splat(255, width, "int32")
    return table[index]


def _narrow(values: Sequence[Expr], widths: Sequence[int], output: Output) -> Expr:
    made = []
    for value, lanes in zip(values, widths, strict=True):
        low, high = (
            emit.splat(float(bound - output.zero), lanes, "float32")
            for bound in (output.low, output.high)
        )
        rounded = tirx.nearbyint(T.max(T.min(value, high), low))
        whole = tirx.Cast(emit.vector_type("int32", lanes), rounded)
        shifted = whole + emit.splat(output.zero, lanes, "int32")
        made.append(tirx.Cast(emit.vector_type("int8", lanes), shifted))
    return joined(made, sum(widths))


def _narrow_neon(values: Sequence[Expr], output: Output, width: int) -> Expr:
    halves = [
        intrinsic("int16", 4, "aarch64.neon.sqxtn", intrinsic("int32", 4, _ROUND, value))
        for value in values
    ]
    if width == GROUP:
        halves *= 2
    made = []
    for pair in zip(halves[::2], halves[1::2], strict=True):
        whole = joined(pair, 8)
        if output.zero:
            whole = intrinsic("int16", 8, "sadd.sat", whole, emit.splat(output.zero, 8, "int16"))
        made.append(intrinsic("int8", 8, "aarch64.neon.sqxtn", whole))
    result = joined(made, 8 * len(made))
    if width == GROUP:
        result = tirx.Shuffle([emit.held(result, 8, "int8")], list(range(GROUP)))
    if output.low > -128:
        result = T.max(result, emit.splat(output.low, width, "int8"))
    if output.high < 127:
        result = T.min(result, emit.splat(output.high, width, "int8"))
    return result


_ROUND = "aarch64.neon.fcvtns"  # to the nearest, halves to even


def _look_up_neon(table: Buffer, held: Expr, width: int) -> Expr:
    lanes = max(8, width)
    if width == GROUP:
        held = emit.held(tirx.Shuffle([held, held], list(range(lanes))), lanes, "int8")
    quarter = _TABLE // 4
    found: Expr = None
    for i in range(4):
        entries = [emit.load(table, quarter * i + 16 * j, lanes=16) for j in range(4)]
        if i == 0:
            found = intrinsic("int8", lanes, "aarch64.neon.tbl4", *entries, held)
            continue
        shift = quarter * i - (_TABLE if i > 1 else 0)
        index = held - emit.splat(shift, lanes, "int8")
        found = intrinsic("int8", lanes, "aarch64.neon.tbx4", found, *entries, index)
    if width == GROUP:
        return tirx.Shuffle([emit.held(found, lanes, "int8")], list(range(GROUP)))
    return found


def joined(values: Sequence[Expr], width: int) -> Expr:
    """Return adjacent vectors as one."""
    return values[0] if len(values) == 1 else tirx.Shuffle(list(values), list(range(width)))


def part_of(value: Expr, first: int, width: int, lanes: int) -> Expr:
    """Return some adjacent values of a vector of `lanes`."""
    if width == lanes:
        return value
    return tirx.Shuffle([value], list(range(first, first + width)))


def table_of(function: Callable[[NDArray[np.int8]], NDArray[np.int8]]) -> NDArray[np.int8]:
    """Return a function of int8 as a table, in the order of the integers' bits."""
    integers = np.arange(_TABLE).astype(np.uint8).view(np.int8)
    return function(integers)


def argument_table(output: Output) -> Buffer | None:
    """Declare the table where there is one."""
    return emit.argument("table", (_TABLE,), "int8") if output.lookup else None


def store_first(y: Buffer, value: Expr, *index: Expr, width: int, count: int) -> None:
    """Store the first `count` of a vector."""
    if count >= width:
        emit.store(y, value, *index, lanes=width)
        return
    held = emit.held(value, width, "int8")
    *outer, start = index
    for i in range(count):
        emit.store(y, tirx.Shuffle([held], [i]), *outer, start + i, lanes=1)
