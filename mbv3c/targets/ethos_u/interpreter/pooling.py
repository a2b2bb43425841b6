"""Pooling: maximum, average (which is also how memory is copied and rescaled), sum of channels."""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError, UnsupportedError
from mbv3c.targets.ethos_u.interpreter.feature_map import output_shape
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.registers import Registers
from mbv3c.targets.ethos_u.interpreter.scaling import (
    GLOBAL_SCALE,
    apply_channel_scales,
    apply_global_scale,
    channel_scales,
    check_accumulators,
)
from mbv3c.targets.ethos_u.interpreter.window import padded_input, taps, window_of

_MAX, _AVERAGE, _REDUCE_SUM = 0, 1, 2  # vela's pooling_mode
_SIDES = ("TOP", "LEFT", "BOTTOM", "RIGHT")
_LOWEST = -(1 << 40)  # below every element, so that padding is never the maximum


def pool(registers: Registers, memory: Memory, mode: int) -> NDArray[np.int64]:
    """Return the scaled result of a pooling, of shape (height, width, channels).

    Raises:
        StreamError: the registers contradict each other.
        UnsupportedError: no test compares such a pooling with a reference.
    """
    height, width, channels = output_shape(registers)
    inputs = registers["IFM_DEPTH_M1"] + 1
    if mode not in (_MAX, _AVERAGE, _REDUCE_SUM):
        raise UnsupportedError(f"pooling mode {mode}")
    window = window_of(registers)
    if mode == _AVERAGE and any(registers[f"IFM_PAD_{side}"] for side in _SIDES):
        # The accelerator divides by the number of pixels inside; no register says how it rounds.
        raise UnsupportedError("an average with padding")
    values = padded_input(registers, memory, window, fill=_LOWEST if mode == _MAX else 0)
    if mode == _REDUCE_SUM:
        if window.taps != (1, 1) or channels != 1:
            raise UnsupportedError(f"a sum of {window.taps} taps to {channels} channels")
        values = values.sum(axis=2, keepdims=True)
    elif inputs != channels:
        raise StreamError(f"a pooling of {inputs} to {channels} channels")
    combine = np.maximum if mode == _MAX else np.add
    seen = (part for _, _, part in taps(values, window, height, width))
    values = reduce(combine, seen)
    if mode == _AVERAGE and not registers["OFM_PRECISION"] & GLOBAL_SCALE:
        return apply_channel_scales(values, channel_scales(registers, memory, channels), registers)
    if mode != _MAX:
        check_accumulators(values, registers)
    return apply_global_scale(values, registers)
