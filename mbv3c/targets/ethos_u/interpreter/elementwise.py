"""Elementwise operations of one or two inputs.

Operands are scaled as in `generate_scaling_for_elementwise` of vela's
`register_command_stream_generator.py` and in `advanced_elementwise_add_sub_scale` of its
`scaling.py`.
"""

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError, UnsupportedError
from mbv3c.targets.ethos_u.interpreter.feature_map import (
    element_type,
    input_map,
    number,
    output_shape,
    second_input_map,
)
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.registers import Registers
from mbv3c.targets.ethos_u.interpreter.scaling import (
    NATURAL,
    apply_global_scale,
    apply_scale,
    ifm_rounding,
    ofm_rounding,
)

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
