"""Run a program of Ethos-U55 or Ethos-U65 with one core, to compare its bits with a reference.

Commands are executed one by one, in the order of the stream. Checked are registers, weights,
scales, tables, the bounds of every access, that everything that is read was written, and that
waits keep copies and operations out of each other's way (`hazards`). Not checked is how operations
are held apart block by block (BLOCKDEP), and how the internal memory is split into buffers
(IFM_IB_END, AB_START). Where Arm's specifications are silent, a comparison does not say how
silicon rounds.

Whatever the interpreter does not know is an UnsupportedError, never a guess.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import UsageError
from mbv3c.targets.ethos_u.interpreter.convolution import convolve
from mbv3c.targets.ethos_u.interpreter.elementwise import elementwise
from mbv3c.targets.ethos_u.interpreter.errors import InterpreterError, UnsupportedError
from mbv3c.targets.ethos_u.interpreter.feature_map import output_map
from mbv3c.targets.ethos_u.interpreter.hazards import RunningCommands
from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.pooling import pool
from mbv3c.targets.ethos_u.interpreter.program import Program, ProgramTensor
from mbv3c.targets.ethos_u.interpreter.registers import Command, Registers, decode
from mbv3c.targets.ethos_u.interpreter.scaling import INTERNAL, TABLE_0, TABLE_BYTES, finish
from mbv3c.targets.ethos_u.interpreter.weight_decoder import WeightDecoder
from mbv3c.targets.ethos_u.interpreter.window import window_of

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
    with WeightDecoder() as decoder:
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
