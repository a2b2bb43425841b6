"""Convolutions and depthwise convolutions, whole operations at a time.

Sums are exact: products of 16-bit and 9-bit numbers are added in float64, which holds every
integer up to 2^53. A sum that does not fit the accelerator's accumulators is an error.
"""

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError, UnsupportedError
from mbv3c.targets.ethos_u.interpreter.feature_map import element_type, output_shape
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.program import Program
from mbv3c.targets.ethos_u.interpreter.registers import Registers
from mbv3c.targets.ethos_u.interpreter.scaling import apply_channel_scales, channel_scales
from mbv3c.targets.ethos_u.interpreter.weight_decoder import WeightDecoder
from mbv3c.targets.ethos_u.interpreter.weights import Ordering, read_kernel
from mbv3c.targets.ethos_u.interpreter.window import Window, padded_input, taps, window_of
from mbv3c.targets.ethos_u.lowering.channels import channels_of


def convolve(
    registers: Registers,
    memory: Memory,
    program: Program,
    decoder: WeightDecoder,
    place: str,
    *,
    depthwise: bool,
) -> NDArray[np.int64]:
    """Return the scaled sums of a convolution, of shape (height, width, channels).

    The channels are added to `program.channels`, with the place of the convolution.
    """
    height, width, channels = output_shape(registers)
    inputs = registers["IFM_DEPTH_M1"] + 1
    if element_type(registers, "IFM").itemsize > 2:
        raise UnsupportedError("a convolution of 32-bit elements")
    if depthwise and inputs != channels:
        raise StreamError(f"a depthwise convolution of {inputs} to {channels} channels")
    window = window_of(registers)
    if depthwise and window.part_kernel_first:
        raise StreamError("a depthwise convolution with the kernel's parts first")
    kernel = read_kernel(
        memory.load(
            registers["WEIGHT_REGION"],
            registers.address("WEIGHT_BASE"),
            registers.address("WEIGHT_LENGTH"),
        ).tobytes(),
        Ordering(
            shape=(channels, *window.taps, 1 if depthwise else inputs),
            depthwise=depthwise,
            part_kernel_first=window.part_kernel_first,
            input_bits=8 * element_type(registers, "IFM").itemsize,
            dilation=window.dilation,
            block_depth=registers["OFM_BLK_DEPTH_M1"] + 1,
            ofm_ublock_depth=program.accelerator.ofm_ublock_depth,
            ifm_ublock_depth=program.accelerator.ifm_ublock_depth,
        ),
        decoder,
        program.weights,
    )
    scales = channel_scales(registers, memory, channels)
    used = channels_of(kernel, scales.bias, scales.scale, scales.shift)
    program.channels.update(dict.fromkeys(used, place))
    values = padded_input(registers, memory, window, fill=0).astype(np.float64)
    sums = _depthwise if depthwise else _dense
    totals = sums(values, kernel, window, height, width).astype(np.int64)
    return apply_channel_scales(totals, scales, registers)


def _dense(
    values: NDArray[np.float64],
    kernel: NDArray[np.int16],
    window: Window,
    height: int,
    width: int,
) -> NDArray[np.float64]:
    outputs, _, _, inputs = kernel.shape
    total = np.zeros((height * width, outputs))
    matrices = kernel.astype(np.float64).transpose(1, 2, 3, 0)
    for row, column, seen in taps(values, window, height, width):
        total += seen.reshape(height * width, inputs) @ matrices[row, column]
    return total.reshape(height, width, outputs)


def _depthwise(
    values: NDArray[np.float64],
    kernel: NDArray[np.int16],
    window: Window,
    height: int,
    width: int,
) -> NDArray[np.float64]:
    total = np.zeros((height, width, kernel.shape[0]))
    for row, column, seen in taps(values, window, height, width):
        total += seen * kernel[:, row, column, 0].astype(np.float64)
    return total
