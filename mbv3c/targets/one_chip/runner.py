"""Run the C library of a bundle: the CPU's parts on an emulated board, the streams interpreted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import Bundle
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import Program, read_program
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.mcu.kit import require_kit
from mbv3c.targets.one_chip.board import FirmwareRunner, Stream, host_of
from mbv3c.targets.one_chip.chain import Answer
from mbv3c.targets.one_chip.record import library_of, record_of, tosa_and_stream

BESIDE = "interpreter of the command stream in the place of the NPU"


def runner_of(bundle: Bundle) -> FirmwareRunner:
    """Return what runs the library of a bundle.

    Raises:
        ToolError: the emulator is not here.
        BundleError: the bundle is damaged.
    """
    record = record_of(bundle)
    return FirmwareRunner(
        require_kit(),
        host_of(record.host),
        library_of(bundle),
        record.needs,
        streams_in(bundle),
        answer_of(bundle),
    )


def answer_of(bundle: Bundle) -> Answer:
    """Return what interprets the streams of a bundle."""
    programs: dict[int, Program] = {}

    def answer(number: int, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
        if number not in programs:
            programs[number] = read_program(bundle.path / tosa_and_stream(number)[1])
        return interpret(programs[number], inputs)

    return answer


def streams_in(bundle: Bundle) -> list[Stream]:
    """Return what a program on a board knows of each call of the NPU."""
    npu, inputs, outputs = manifest_of(bundle).npu, 0, 0
    streams = []
    for number, part in enumerate(record_of(bundle).streams):
        regions = [key.split(":") for key in npu.scratch_bytes]
        streams.append(
            Stream(
                npu.inputs[inputs : inputs + len(part.reads)],
                npu.outputs[outputs : outputs + len(part.makes)],
                tuple(int(region) for stream, region in regions if stream == str(number)),
            )
        )
        inputs, outputs = inputs + len(part.reads), outputs + len(part.makes)
    return streams
