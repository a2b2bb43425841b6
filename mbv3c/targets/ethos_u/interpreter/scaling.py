"""From sums to elements of the output: scale, round, move by the zero point, clamp, look up.

A scale is applied as in `apply_scale_32` of the TOSA 1.0 specification. The names of the rounding
modes come from `rounding` in vela's `ethos_u55_regs`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError, UnsupportedError
from mbv3c.targets.ethos_u.interpreter.feature_map import element_type, number
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.registers import Registers
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
