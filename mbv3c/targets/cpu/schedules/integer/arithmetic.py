"""Words in which the integer kernels are written: dot products, rounding, tables.

Products of int8 are added in int32. A sum becomes int8 as in onnxruntime's QuantizeLinear: times
an fp32 factor, rounded with halves to even, shifted by the zero point, saturated. Where no sum can
be a half, NEON multiplies by the factor as a fixed-point number instead, which takes fewer
instructions. A function of the result, such as a hard-swish, is a table of 256 entries.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import armv7, avx2, neon
from mbv3c.targets.cpu.schedules.integer.requantization import Gated, Requantization

VECTOR = 16  # int8 values that are rounded at once
GROUP = 4  # products that a dot product adds
_DOTS_OF_NEON = ("dotprod", "i8mm")
_NEON = ("neon", *_DOTS_OF_NEON)
_ADDING = ("vmlal", "adding")
_OFFSET = -0x7F7F7F80  # 0x80808080 in int32: added to four int8 without a carry makes them uint8
_TABLE = neon.TABLE
_Shape = TypeVar("_Shape")


def has_dot(processor: Processor) -> bool:
    """Say whether sums of four products are what the processor computes best."""
    return processor.integers in (*_DOTS_OF_NEON, "vnni", "smlad", "helium")


def has_sdot(processor: Processor) -> bool:
    """Say whether the processor has NEON's dot products."""
    return processor.integers in _DOTS_OF_NEON


def has_smmla(processor: Processor) -> bool:
    """Say whether the processor multiplies matrices, two rows by two columns."""
    return processor.integers == "i8mm"


def has_pairs(processor: Processor) -> bool:
    """Say whether sums of two products of int16 (`vpmaddwd`) are what it computes best."""
    return processor.integers == "pairs"


def is_avx2(processor: Processor) -> bool:
    """Say whether kernels use AVX2 where there is no dot product, for channels and rounding."""
    return has_pairs(processor) or (processor.integers == "vnni" and processor.vector_bytes == 32)


def computes_gates(processor: Processor) -> bool:
    """Say whether the processor computes gates faster than it looks them up."""
    return processor.integers in ("pairs", "vnni")


def is_neon(processor: Processor) -> bool:
    """Say whether the processor has NEON, with or without dot products."""
    return processor.integers in _NEON


def is_cortex_m(processor: Processor) -> bool:
    """Say whether the kernels are for a microcontroller."""
    return processor.integers in _CORTEX_M


def weight_type(processor: Processor, terms: int) -> str:
    """Return the type of packed weights, of which each is a sum of so many int8."""
    narrow = has_dot(processor) or (has_pairs(processor) and terms == 1)
    return "int8" if narrow else "int16"


def by_bits(weights: NDArray[Any], narrow: type[_Shape], wide: type[_Shape]) -> type[_Shape]:
    """Return the shape of a kernel for weights of eight bits or, in int16, of nine."""
    return narrow if weights.dtype == np.int8 else wide


def in_terms(weights: NDArray[Any], terms: int) -> NDArray[np.int8]:
    """Return int8 whose sums are the weights: `terms` of each, along a new first axis.

    Two hold what lies from -256 to 254, such as weights of 8 bits less a zero point.
    """
    left, taken = weights.astype(np.int16), []
    for _ in range(terms):
        taken.append(left.clip(-128, 127).astype(np.int8))
        left = left - taken[-1]
    assert not left.any(), "weights need more terms"
    return np.stack(taken)


def parts(width: int, processor: Processor) -> tuple[int, ...]:
    """Cut a vector of int8 into vectors of int32 that fit registers."""
    lanes = min(width, max(1, processor.vector_bytes // 4))
    return (lanes,) * (width // lanes)


def parts_of(widths: Sequence[int], processor: Processor) -> tuple[int, ...]:
    """Cut several adjacent vectors of int8 into vectors of int32 that fit registers."""
    return tuple(part for width in widths for part in parts(width, processor))


# ---- products ----


def starts(inputs: int, group: int) -> list[int]:
    """Return where each group of K begins; the last begins early enough to be whole."""
    return [min(group * i, inputs - group) for i in range(-(-inputs // group))]


def add_dot(acc: Expr, weights: Expr, four: Expr, lanes: int, processor: Processor) -> Expr:
    """Add the products of four int8, held in an int32, with 4·lanes weights.

    On x86 the four int8 must have gone through `unsigned`.
    """
    repeated = four if lanes == 1 else tirx.Broadcast(four, lanes)
    operand = tirx.reinterpret(f"int8x{GROUP * lanes}", repeated)
    if has_sdot(processor):
        return emit.intrinsic("int32", lanes, "aarch64.neon.sdot", acc, weights, operand)
    name = f"x86.avx512.vpdpbusd.{32 * lanes}"
    return emit.intrinsic("int32", lanes, name, acc, operand, weights)


def repeated(pair: Expr, lanes: int) -> Expr:
    """Repeat two int16 for so many sums."""
    word = tirx.reinterpret("int32", pair)
    return tirx.reinterpret(f"int16x{2 * lanes}", emit.splat(word, lanes, "int32"))


def fours(x: Buffer, *index: Expr, count: int, processor: Processor) -> Callable[[int], Expr]:
    """Load `count` times four adjacent int8 at once; return a function that gives an int32."""
    if count == 1 or processor.integers == "vnni":
        *outer, start = index

        def load_four(i: int) -> Expr:
            loaded = emit.load(x, *outer, start + GROUP * i, lanes=GROUP)
            return unsigned(tirx.reinterpret("int32", loaded), processor)

        return load_four
    words = tirx.reinterpret(f"int32x{count}", emit.load(x, *index, lanes=GROUP * count))
    held = emit.held(words, count, "int32")
    return lambda i: tirx.Shuffle([held], [i])


def unsigned(four: Expr, processor: Processor) -> Expr:
    """Return four int8 as the processor multiplies them: x86 takes uint8, larger by 128."""
    return four ^ tirx.const(_OFFSET, "int32") if processor.integers == "vnni" else four


def correction(zero: int, sums: NDArray[Any], processor: Processor) -> NDArray[np.int64]:
    """Return what to add to biases for the zero point of the inputs.

    Args:
        zero: zero point of the inputs.
        sums: sum of the weights of each output.
        processor: the processor; on x86 it multiplies inputs that are larger by 128.
    """
    shift = zero + (128 if processor.integers == "vnni" else 0)
    return -shift * sums.astype(np.int64)


def constant_four(zero: int, processor: Processor) -> Expr:
    """Return an int8, four times side by side, as an int32 for `add_dot`."""
    value = int(np.frombuffer(np.full(GROUP, zero, np.int8).tobytes(), "<i4")[0])
    return unsigned(tirx.const(value, "int32"), processor)


def outside_operand(zero: int, processor: Processor) -> Expr:
    """Return an operand of a dot product, of four channels outside the map: the zero point."""
    four = constant_four(zero, processor)
    return tirx.reinterpret("int8x16", emit.splat(four, GROUP, "int32"))


def interleaved(rows: Sequence[Expr], lanes: int) -> list[Expr]:
    """Interleave up to four rows, vectors of 8 or 16 int8.

    Returns:
        For every four lanes an operand of a dot product: of each lane the int8 of four rows. With
        fewer than four rows, the remaining int8 are arbitrary.
    """
    a, b, c, d = (emit.held(rows[min(i, len(rows) - 1)], lanes, "int8") for i in range(GROUP))
    if lanes == 8:  # a pair of rows fills a vector
        pairs = [(_zipped(a, b, 8, "int8", 0), _zipped(c, d, 8, "int8", 0))]
    else:
        pairs = [(_zipped(a, b, 8, "int8", at), _zipped(c, d, 8, "int8", at)) for at in (0, 8)]
    operands = []
    for pair in pairs:
        first, second = (tirx.reinterpret("int16x8", zipped) for zipped in pair)
        operands += [_zipped(first, second, 4, "int16", at) for at in (0, 4)]
    return [tirx.reinterpret("int8x16", operand) for operand in operands]


def _zipped(a: Expr, b: Expr, count: int, dtype: str, first: int) -> Expr:
    """Return `count` lanes of two vectors, from `first` on, alternating between the two."""
    lanes = int(a.ty.dtype.lanes)
    order = [at + lanes * side for at in range(first, first + count) for side in (0, 1)]
    return emit.held(tirx.Shuffle([a, b], order), 2 * count, dtype)


# ---- rounding ----


def scaled(sums: Sequence[Expr], scale: Buffer, first: Expr, widths: Sequence[int]) -> list[Expr]:
    """Multiply sums by the factors of their columns: to fp32, or to fixed-point numbers."""
    starts = emit.offsets(widths)
    if str(scale.dtype) == "int32":
        return [
            neon.product(value, emit.load(scale, first + at, lanes=lanes))
            for value, at, lanes in zip(sums, starts, widths, strict=True)
        ]
    return [
        tirx.Cast(emit.vector_type("float32", lanes), value)
        * emit.load(scale, first + at, lanes=lanes)
        for value, at, lanes in zip(sums, starts, widths, strict=True)
    ]


def narrow(
    values: Sequence[Expr],
    widths: Sequence[int],
    output: Requantization,
    table: Buffer | None,
    processor: Processor,
    *,
    crossed: bool = False,
) -> Expr:
    """Round adjacent vectors, of fp32 or of fixed-point numbers, to a vector of int8.

    `crossed`: two vectors hold the values by fours, the first and third, the second and fourth.
    """
    width = sum(widths)
    if isinstance(output, Gated):
        bounds = [bound - output.zero for bound in (output.low, output.high)]
        values = [
            output.gate.emit(value, lanes, *bounds)
            for value, lanes in zip(values, widths, strict=True)
        ]
        output = Requantization(output.gate.zero, small=True)
    if is_neon(processor) and width >= GROUP:
        result = _narrow_neon(values, output, width)
    elif is_cortex_m(processor):
        result = joined([_CORTEX_M[processor.integers](each, output) for each in values], width)
    elif is_avx2(processor) and set(widths) == {avx2.LANES}:
        result = avx2.narrow(values, output.zero, small=output.small, crossed=crossed)
        result = _clamped(result, output, width)
    else:
        result = _narrow(values, widths, output, processor)
    if table is None:
        return result
    return look_up(table, emit.held(result, width, "int8"), width, processor)


def look_up(table: Buffer, held: Expr, width: int, processor: Processor) -> Expr:
    """Return the entries of a table for the int8 in a register."""
    if is_neon(processor) and width >= GROUP:
        return neon.look_up(table, held, width)
    if processor.integers == "vmlal":
        return armv7.look_up(table, held, width)
    mask = emit.splat(255, width, "int32")
    return table[tirx.Cast(emit.vector_type("int32", width), held) & mask]


def _narrow(
    values: Sequence[Expr], widths: Sequence[int], output: Requantization, processor: Processor
) -> Expr:
    narrowed = []
    for value, lanes in zip(values, widths, strict=True):
        low, high = (
            emit.splat(float(bound - output.zero), lanes, "float32")
            for bound in (output.low, output.high)
        )
        bounded = T.max(T.min(value, high), low)
        if processor.integers in _ADDING:
            integers = _rounded_by_adding(bounded, lanes)
        else:
            integers = tirx.Cast(emit.vector_type("int32", lanes), tirx.nearbyint(bounded))
        shifted = integers + emit.splat(output.zero, lanes, "int32")
        narrowed.append(tirx.Cast(emit.vector_type("int8", lanes), shifted))
    return joined(narrowed, sum(widths))


# Near 1.5 · 2^23 fp32 has whole numbers only, so sums are rounded to them, halves to even ones,
# and the lowest bits are the number.
_WHOLE, _WHOLE_BITS = 12582912.0, 0x4B400000


def _rounded_by_adding(value: Expr, lanes: int) -> Expr:
    """Round fp32 of a magnitude below 2^22 to the nearest int32."""
    whole = value + emit.splat(_WHOLE, lanes, "float32")
    bits = tirx.reinterpret(emit.vector_type("int32", lanes), whole)
    return bits - emit.splat(_WHOLE_BITS, lanes, "int32")


def _narrow_by_vcvtr(value: Expr, output: Requantization) -> Expr:
    """Round one fp32; the nearest int32 comes in an fp32 register, halves are even."""
    nearest = tirx.reinterpret("int32", emit.intrinsic("float32", 1, "arm.vcvtr", value))
    shifted = nearest
    if output.zero:
        zero = tirx.const(output.zero, "int32")
        shifted = emit.intrinsic("int32", 1, "arm.qadd", nearest, zero)
    low, high = (tirx.const(bound, "int32") for bound in (output.low, output.high))
    return tirx.Cast("int8", T.max(T.min(shifted, high), low))


def _narrow_by_helium(value: Expr, output: Requantization) -> Expr:
    """Round four fp32 at once, fewer one by one."""
    lanes = int(value.ty.dtype.lanes)
    if lanes == 1:
        return _narrow_by_vcvtr(value, output)
    if lanes < GROUP:
        held = emit.held(value, lanes, "float32")
        ones = [tirx.Shuffle([held], [lane]) for lane in range(lanes)]
        return joined([_narrow_by_vcvtr(one, output) for one in ones], lanes)
    nearest = emit.intrinsic("int32", GROUP, "arm.mve.vcvtn", tirx.const(0, "int32"), value)
    low, high, zero = (
        emit.splat(number, GROUP, "int32")
        for number in (output.low - output.zero, output.high - output.zero, output.zero)
    )
    return tirx.Cast("int8x4", T.max(T.min(nearest, high), low) + zero)


_CORTEX_M = {"smlad": _narrow_by_vcvtr, "helium": _narrow_by_helium}


def _narrow_neon(values: Sequence[Expr], output: Requantization, width: int) -> Expr:
    wide = [*values, *values] if width == GROUP else values
    pairs = list(zip(wide[::2], wide[1::2], strict=True))
    if output.shift:
        narrowed = [neon.rounded(pair, output.zero, output.shift) for pair in pairs]
    else:
        shorts_of = neon.small_shorts if output.small else neon.shorts
        narrowed = [neon.saturated(shorts_of(pair, output.zero)) for pair in pairs]
    result = joined(narrowed, 8 * len(narrowed))
    if width == GROUP:
        result = tirx.Shuffle([emit.held(result, 8, "int8")], list(range(GROUP)))
    return _clamped(result, output, width)


def _clamped(result: Expr, output: Requantization, width: int) -> Expr:
    """Bound int8 as a clamp does that follows."""
    if output.low > -128:
        result = T.max(result, emit.splat(output.low, width, "int8"))
    if output.high < 127:
        result = T.min(result, emit.splat(output.high, width, "int8"))
    return result


def joined(values: Sequence[Expr], width: int) -> Expr:
    """Join adjacent vectors."""
    return values[0] if len(values) == 1 else tirx.Shuffle(list(values), list(range(width)))


def part_of(value: Expr, first: int, width: int, lanes: int) -> Expr:
    """Return `width` values of a vector of `lanes`, from `first` on."""
    if width == lanes:
        return value
    return tirx.Shuffle([value], list(range(first, first + width)))


def table_of(function: Callable[[NDArray[np.int8]], NDArray[np.int8]]) -> NDArray[np.int8]:
    """Return the table of a function of int8, in the order of the integers' bits."""
    integers = np.arange(_TABLE).astype(np.uint8).view(np.int8)
    return function(integers)


def argument_table(output: Requantization) -> Buffer | None:
    """Declare the table, if there is a lookup."""
    return emit.argument("table", (_TABLE,), "int8") if output.lookup else None


def store_first(y: Buffer, value: Expr, *index: Expr, width: int, count: int) -> None:
    """Store the first `count` values of a vector."""
    if count >= width:
        emit.store(y, value, *index, lanes=width)
        return
    held = emit.held(value, width, "int8")
    *outer, start = index
    for i in range(count):
        emit.store(y, tirx.Shuffle([held], [i]), *outer, start + i, lanes=1)
