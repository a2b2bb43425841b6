"""Run a program of Ethos-U55 or Ethos-U65 with one core, to compare its bits with a reference.

Commands are executed one by one, in the order of the stream. Checked are registers, weights,
scales, tables, the bounds of every access, that everything that is read was written, and that
waits keep copies and operations out of each other's way (`memory`). Not checked is how operations
are held apart block by block (BLOCKDEP), and how the internal memory is split into buffers
(IFM_IB_END, AB_START). Where Arm's specifications are silent, a comparison does not say how
silicon rounds.

Whatever the interpreter does not know is an UnsupportedError, never a guess.

A convolution is computed as a whole. Sums are exact: products of 16-bit and 9-bit numbers are
added in float64, which holds every integer up to 2^53. A sum that does not fit the accelerator's
accumulators is an error.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import UsageError
from mbv3c.steps import of_large, step
from mbv3c.targets.ethos_u.interpreter.feature_map import (
    element_type,
    output_map,
    output_shape,
)
from mbv3c.targets.ethos_u.interpreter.memory import Memory, RunningCommands
from mbv3c.targets.ethos_u.interpreter.program import (
    Command,
    InterpreterError,
    Program,
    ProgramTensor,
    Registers,
    StreamError,
    UnsupportedError,
    decode,
)
from mbv3c.targets.ethos_u.interpreter.scaling import (
    GLOBAL_SCALE,
    INTERNAL,
    TABLE_0,
    TABLE_BYTES,
    apply_channel_scales,
    apply_global_scale,
    channel_scales,
    check_accumulators,
    elementwise,
    finish,
)
from mbv3c.targets.ethos_u.interpreter.weights import Ordering, WeightDecoder, read_kernel
from mbv3c.targets.ethos_u.interpreter.window import Window, padded_input, taps, window_of
from mbv3c.targets.ethos_u.lowering.region import channels_of


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
    values: NDArray[np.float64], kernel: NDArray[np.int16], window: Window, height: int, width: int
) -> NDArray[np.float64]:
    outputs, _, _, inputs = kernel.shape
    total = np.zeros((height * width, outputs))
    matrices = kernel.astype(np.float64).transpose(1, 2, 3, 0)
    for row, column, seen in taps(values, window, height, width):
        total += seen.reshape(height * width, inputs) @ matrices[row, column]
    return total.reshape(height, width, outputs)


def _depthwise(
    values: NDArray[np.float64], kernel: NDArray[np.int16], window: Window, height: int, width: int
) -> NDArray[np.float64]:
    total = np.zeros((height, width, kernel.shape[0]))
    for row, column, seen in taps(values, window, height, width):
        total += seen * kernel[:, row, column, 0].astype(np.float64)
    return total


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


_WAITS = ("OP_DMA_WAIT", "OP_KERNEL_WAIT")
_WITHOUT_EFFECT = ("OP_STOP", "OP_PMU_MASK")


def interpret(program: Program, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a program once.

    Args:
        program: a program of `read_program`, which also keeps the weights that were decoded.
        inputs: inputs in the program's order, of the program's shapes (leading ones do not count)
            and element sizes.

    Returns:
        The outputs as signed integers; use `.view` if they are unsigned.

    Raises:
        UsageError: the number, shape or element size of the inputs is wrong.
        StreamError: the program is broken.
        UnsupportedError: the program contains something that the interpreter does not know.
    """
    memory = Memory({**program.scratch, INTERNAL: program.accelerator.shram_bytes})
    memory.add_constants(program.constants_region, program.constants)
    if len(inputs) != len(program.inputs):
        raise UsageError(f"{len(inputs)} inputs for a program of {len(program.inputs)}")
    for tensor, values in zip(program.inputs, inputs, strict=True):
        memory.store(tensor.region, tensor.offset, _bytes_of(values, tensor))
    registers, running = Registers(), RunningCommands(program.accelerator)
    with step("interpreting the command stream", "mbv3c", of_large), WeightDecoder() as decoder:
        for command in decode(program.words):
            memory.accesses = []
            try:
                _execute(command, registers, memory, running, program, decoder)
            except InterpreterError as error:
                raise error.at(command.name, command.word) from error.__cause__
    return [_output(tensor, memory) for tensor in program.outputs]


def _execute(
    command: Command,
    registers: Registers,
    memory: Memory,
    running: RunningCommands,
    program: Program,
    decoder: WeightDecoder,
) -> None:
    if command.name.startswith("SET_"):
        registers.set(command)
        if command.name == "SET_PARALLEL_MODE" and command.param:
            raise UnsupportedError(f"{command.param + 1} cores in parallel")
    elif command.name == "OP_DMA_START":
        _copy(registers, memory)
        running.start_copy(command, memory.accesses)
    elif command.name in _WAITS:
        running.wait(command)
    elif command.name not in _WITHOUT_EFFECT:
        values = _operate(command, registers, memory, program, decoder)
        shram_bytes = program.accelerator.shram_bytes
        elements = finish(values, registers, memory, shram_bytes, program.tables)
        output_map(registers).write(memory, elements)
        if program.accelerator.lut_is_shared and registers["ACTIVATION"] & 0xFFF < TABLE_0:
            memory.forget(INTERNAL, shram_bytes - TABLE_BYTES)
        running.start_operation(
            command, memory.accesses, pointwise=_is_pointwise(command, registers)
        )


def _operate(
    command: Command,
    registers: Registers,
    memory: Memory,
    program: Program,
    decoder: WeightDecoder,
) -> NDArray[np.int64]:
    if command.name in ("OP_CONV", "OP_DEPTHWISE"):
        return convolve(
            registers,
            memory,
            program,
            decoder,
            f"{command.name} at word {command.word}",
            depthwise=command.name == "OP_DEPTHWISE",
        )
    if command.name == "OP_POOL":
        return pool(registers, memory, command.param)
    if command.name == "OP_ELEMENTWISE":
        return elementwise(registers, memory, command.param)
    raise UnsupportedError("this command is not known")


def _is_pointwise(command: Command, registers: Registers) -> bool:
    if command.name == "OP_ELEMENTWISE":
        return True
    return command.name == "OP_POOL" and window_of(registers).taps == (1, 1)


def _copy(registers: Registers, memory: Memory) -> None:
    """Execute a DMA; vela's `npu_set_dma0_src_region_t` describes its fields."""
    source, destination = registers["DMA0_SRC_REGION"], registers["DMA0_DST_REGION"]
    if (source | destination) >> 9:
        raise UnsupportedError("a copy of more than one dimension")
    data = memory.load(
        _dma_region(source), registers.address("DMA0_SRC"), registers.address("DMA0_LEN")
    )
    memory.store(_dma_region(destination), registers.address("DMA0_DST"), data)


def _dma_region(field: int) -> int:
    return INTERNAL if field >> 8 & 1 else field & 0xFF


def _bytes_of(values: NDArray[Any], tensor: ProgramTensor) -> NDArray[np.uint8]:
    shape = values.shape
    while len(shape) > len(tensor.shape) and shape[0] == 1:
        shape = shape[1:]
    if shape != tensor.shape or values.dtype.itemsize != tensor.element_size:
        raise UsageError(
            f"an input of shape {list(values.shape)} and {values.dtype} for one of shape"
            f" {list(tensor.shape)} and {tensor.element_size}-byte elements"
        )
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)


def _output(tensor: ProgramTensor, memory: Memory) -> NDArray[Any]:
    data = memory.load(tensor.region, tensor.offset, tensor.bytes)
    return data.view(f"<i{tensor.element_size}").reshape(tensor.shape)
