"""From sums to elements of the output: scale, round, add the zero point, clamp, look up.

A scale is applied as in `apply_scale_32` of the TOSA 1.0 specification. The names of the rounding
modes come from `rounding` in vela's `ethos_u55_regs`.

Operands are scaled as in `generate_scaling_for_elementwise` of vela's
`register_command_stream_generator.py` and in `advanced_elementwise_add_sub_scale` of its
`scaling.py`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.feature_map import (
    element_type,
    input_map,
    number,
    output_shape,
    second_input_map,
)
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.program import Registers, StreamError, UnsupportedError
from mbv3c.targets.ethos_u.interpreter.weights import Scales, read_scales

INTERNAL = -1  # the accelerator's own memory, as a region
TABLE_BYTES = 2048  # at the end of the internal memory
DOUBLE, NATURAL = 0, 2  # 1 is TRUNCATE
GLOBAL_SCALE = 1 << 8  # of OFM_PRECISION
TABLE_0 = 16  # of ACTIVATION
_TABLE_7 = 23
_ACCUMULATOR_BITS = {0: 32, 1: 40}  # vela's acc_format; FP_S5_10 is a float


def ofm_rounding(registers: Registers) -> int:
    """Return the rounding mode of OFM_PRECISION."""
    return _known_rounding(registers["OFM_PRECISION"] >> 14)


def ifm_rounding(registers: Registers) -> int:
    """Return the rounding mode of IFM_PRECISION, which scales the operands of a sum."""
    return _known_rounding(registers["IFM_PRECISION"] >> 14)


def _known_rounding(mode: int) -> int:
    if mode not in (DOUBLE, NATURAL):
        raise UnsupportedError(f"rounding mode {mode}")
    return mode


def apply_scale(
    values: NDArray[np.int64],
    scale: NDArray[np.int64] | int,
    shift: NDArray[np.int64] | int,
    rounding: int,
) -> NDArray[np.int64]:
    """Return values * scale >> shift, rounded; scale and shift may differ by channel."""
    scales, shifts = np.asarray(scale, np.int64), np.asarray(shift, np.int64)
    largest = max(1, int(np.abs(values).max(initial=0))) * max(1, int(scales.max(initial=0)))
    # Products of 40-bit sums can need more than 64 bits, which Python's integers have.
    wide = largest >= 1 << 61 or int(shifts.max(initial=0)) > 61
    kind: Any = object if wide else np.int64
    product = values.astype(kind) * scales.astype(kind)
    half = np.where(shifts > 0, np.left_shift(1, np.maximum(shifts, 1) - 1), 0).astype(kind)
    if rounding == DOUBLE:
        second = np.where(shifts > 31, 1 << 30, 0).astype(kind)
        half = half + np.where(values >= 0, second, -second)
    scaled: NDArray[np.int64] = np.right_shift(product + half, shifts.astype(kind)).astype(
        np.int64
    )
    return scaled


def apply_global_scale(values: NDArray[np.int64], registers: Registers) -> NDArray[np.int64]:
    """Return values scaled by OFM_SCALE, the scale of all channels.

    Raises:
        UnsupportedError: OFM_PRECISION asks for a scale for each channel.
    """
    if not registers["OFM_PRECISION"] & GLOBAL_SCALE:
        raise UnsupportedError("a scale for each channel, where one for all was expected")
    shift, scale = registers.pair("OFM_SCALE")
    if shift > 63:
        raise StreamError(f"a shift by {shift}")
    return apply_scale(values, scale, shift, ofm_rounding(registers))


def channel_scales(registers: Registers, memory: Memory, channels: int) -> Scales:
    """Return the bias and the scale of each channel.

    Raises:
        StreamError: the records of the channels are broken.
        UnsupportedError: OFM_PRECISION asks for one scale for all channels.
    """
    if registers["OFM_PRECISION"] & GLOBAL_SCALE:
        raise UnsupportedError("one scale for all channels, where one for each was expected")
    stream = memory.load(
        registers["SCALE_REGION"],
        registers.address("SCALE_BASE"),
        registers.address("SCALE_LENGTH"),
    )
    return read_scales(stream, channels)


def apply_channel_scales(
    totals: NDArray[np.int64], scales: Scales, registers: Registers
) -> NDArray[np.int64]:
    """Return sums with each channel's bias added and each channel's scale applied.

    Raises:
        StreamError: a sum overflows.
    """
    sums = totals + scales.bias
    check_accumulators(sums, registers)
    return apply_scale(sums, scales.scale, scales.shift, ofm_rounding(registers))


def check_accumulators(sums: NDArray[np.int64], registers: Registers) -> None:
    """Refuse sums that the accumulators of ACC_FORMAT do not hold.

    Raises:
        StreamError: a sum is too large.
        UnsupportedError: the accumulators are floats.
    """
    bits = _ACCUMULATOR_BITS.get(registers["ACC_FORMAT"])
    if bits is None:
        raise UnsupportedError(f"accumulators of format {registers['ACC_FORMAT']}")
    if sums.size and (sums.min() < -(1 << (bits - 1)) or sums.max() >= 1 << (bits - 1)):
        raise StreamError(f"a sum overflows its {bits}-bit accumulator")


def finish(
    values: NDArray[np.int64],
    registers: Registers,
    internal: Memory,
    internal_bytes: int,
    tables: dict[bytes, str],
) -> NDArray[np.int64]:
    """Return scaled values as elements of the output: zero point, clamp, table.

    A table of signed bytes that is used is added to `tables`.

    Raises:
        StreamError: a 32-bit element overflows.
        UnsupportedError: the activation is neither a clamp nor a table of bytes.
    """
    dtype = element_type(registers, "OFM")
    moved = values + number(registers["OFM_ZERO_POINT"], dtype)
    activation = registers["ACTIVATION"]
    kind, clip_range = activation & 0xFFF, activation >> 12
    if clip_range or not (kind == 0 or TABLE_0 <= kind <= _TABLE_7):
        raise UnsupportedError(f"activation {activation:#06x}")
    limits = np.iinfo(dtype)
    if dtype.itemsize == 4:
        # The clamp's registers have 16 bits; sums of 32 bits are not clamped.
        if kind:
            raise UnsupportedError("a table behind a 32-bit output")
        if moved.size and (moved.min() < limits.min or moved.max() > limits.max):
            raise StreamError("an element overflows its 32 bits")
        return moved
    low = max(int(limits.min), number(registers["ACTIVATION_MIN"], dtype))
    high = min(int(limits.max), number(registers["ACTIVATION_MAX"], dtype))
    clamped = np.clip(moved, low, high)
    if not kind:
        return clamped
    if (low, high) != (limits.min, limits.max):
        raise UnsupportedError(f"a table behind a clamp to {low}..{high}")
    return _look_up(clamped, dtype, kind - TABLE_0, internal, internal_bytes, tables)


def _look_up(
    values: NDArray[np.int64],
    dtype: np.dtype[Any],
    slot: int,
    internal: Memory,
    internal_bytes: int,
    tables: dict[bytes, str],
) -> NDArray[np.int64]:
    """Look values up in a table, whose first element belongs to the smallest value."""
    start = internal_bytes - TABLE_BYTES
    if dtype == np.dtype("<i1"):
        data = internal.load(INTERNAL, start + slot * 256, 256)
        tables.setdefault(data.tobytes(), f"slot {slot}")
        table = data.view("<i1").astype(np.int64)
        return table[values + 128]
    if slot or dtype != np.dtype("<i2"):
        raise UnsupportedError(f"a table for {dtype} in slot {slot}")
    # 512 pairs of a value and the slope to the next: TOSA's TABLE of int16, 7 bits of fraction.
    words = internal.load(INTERNAL, start, TABLE_BYTES).view("<i2").astype(np.int64)
    base, slope = words[0::2], words[1::2]
    index, fraction = (values + 32768) >> 7, values & 0x7F
    looked_up: NDArray[np.int64] = base[index] + ((slope[index] * fraction + 64) >> 7)
    return looked_up


# vela's elementwise_mode; 5 is LRELU
_MUL, _ADD, _SUB, _MIN, _MAX, _ABS, _CLZ, _SHR, _SHL = 0, 1, 2, 3, 4, 6, 7, 8, 9
_UNARY = (_ABS, _CLZ)
_SCALED = (_MUL, _ADD, _SUB, _ABS)
_BROADCAST_HEIGHT, _BROADCAST_WIDTH, _BROADCAST_DEPTH = 1, 2, 4
_REVERSED, _SCALAR = 1 << 6, 1 << 7
_OPA_OPB_16, _OPA_32, _OPB_32 = 0, 1, 2  # vela's ifm_scale_mode
# By element size: the operand without a 32-bit scale is shifted left by one bit less.
_HEADROOM = {1: 20, 2: 15}


def elementwise(registers: Registers, memory: Memory, mode: int) -> NDArray[np.int64]:
    """Return the result of an elementwise operation, of shape (height, width, channels).

    Raises:
        StreamError: the registers contradict each other.
        UnsupportedError: the operation or its scaling is not known.
    """
    height, width, channels = output_shape(registers)
    if registers["IFM_DEPTH_M1"] + 1 != channels:
        raise StreamError(f"{registers['IFM_DEPTH_M1'] + 1} channels of input for {channels}")
    if registers["IFM_UPSCALE"]:
        raise UnsupportedError("an elementwise operation that upscales its input")
    source = input_map(registers)
    first = source.read(memory, height, width).astype(np.int64) - source.zero_point
    if mode in _UNARY:
        result = _unary(first, mode)
    else:
        second = _second(registers, memory)
        result = _binary(first, second, registers, mode)
    if mode not in _SCALED:
        return result
    return apply_global_scale(result, registers)


def _second(registers: Registers, memory: Memory) -> NDArray[np.int64]:
    """Return the second input without its zero point; broadcast axes have the size 1."""
    height, width, channels = output_shape(registers)
    broadcast = registers["IFM2_BROADCAST"]
    dtype = element_type(registers, "IFM2")
    if broadcast & _SCALAR:
        value = number(registers["IFM2_SCALAR"], dtype)
        zero_point = number(registers["IFM2_ZERO_POINT"], dtype)
        return np.full((1, 1, 1), value - zero_point, np.int64)
    source = second_input_map(registers, 1 if broadcast & _BROADCAST_DEPTH else channels)
    read = source.read(
        memory,
        1 if broadcast & _BROADCAST_HEIGHT else height,
        1 if broadcast & _BROADCAST_WIDTH else width,
    )
    return read.astype(np.int64) - source.zero_point


def _unary(values: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    if mode == _ABS:
        return np.abs(values)
    # frexp's exponent is the number of bits, exactly: 32-bit integers fit a float64.
    bits = np.frexp((values & 0xFFFFFFFF).astype(np.float64))[1].astype(np.int64)
    return 32 - bits


def _binary(
    first: NDArray[np.int64], second: NDArray[np.int64], registers: Registers, mode: int
) -> NDArray[np.int64]:
    is_reversed = bool(registers["IFM2_BROADCAST"] & _REVERSED)
    if mode in (_ADD, _SUB):
        first, second = _scale_operands(first, second, registers, is_reversed=is_reversed)
    a, b = (second, first) if is_reversed else (first, second)
    if mode == _MUL:
        return _checked_product(a, b)
    if mode == _ADD:
        return a + b
    if mode == _SUB:
        return a - b
    if mode == _MIN:
        return np.minimum(a, b)
    if mode == _MAX:
        return np.maximum(a, b)
    if mode in (_SHR, _SHL):
        return _shift(a, b, registers, mode)
    raise UnsupportedError(f"elementwise mode {mode}")


def _checked_product(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    if float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0)) >= float(1 << 62):
        raise StreamError("a product overflows 62 bits")
    return a * b


def _shift(
    a: NDArray[np.int64], b: NDArray[np.int64], registers: Registers, mode: int
) -> NDArray[np.int64]:
    if b.size and (b.min() < 0 or b.max() > 31):
        raise StreamError(f"shifts by {b.min()} to {b.max()}")
    if mode == _SHL:
        return (((a << b) & 0xFFFFFFFF) ^ (1 << 31)) - (1 << 31)
    if ofm_rounding(registers) == NATURAL:
        a = a + np.where(b > 0, 1 << np.maximum(b - 1, 0), 0)
    return a >> b


def _scale_operands(
    first: NDArray[np.int64], second: NDArray[np.int64], registers: Registers, *, is_reversed: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return both inputs of a sum on one scale."""
    mode = registers["IFM_PRECISION"] >> 8 & 0b11
    shift, scale = registers.pair("OPA_SCALE")
    _, second_scale = registers.pair("OPB_SCALE")
    if mode == _OPA_OPB_16:
        if shift or scale != second_scale or scale >= 1 << 16:
            raise UnsupportedError(f"operand scales {scale}, {second_scale} shifted by {shift}")
        return first * scale, second * scale
    if mode not in (_OPA_32, _OPB_32):
        raise UnsupportedError(f"operand scale mode {mode}")
    headroom = _HEADROOM.get(element_type(registers, "IFM").itemsize)
    if headroom is None or shift > 63:
        raise UnsupportedError(f"a 32-bit operand scale, shifted by {shift}, of 32-bit elements")
    rounding = ifm_rounding(registers)
    # Operand A is the first input, or the second if the order is reversed.
    if (mode == _OPA_32) != is_reversed:
        return apply_scale(first, scale, shift, rounding), second << (headroom - 1)
    return first << (headroom - 1), apply_scale(second, scale, shift, rounding)
