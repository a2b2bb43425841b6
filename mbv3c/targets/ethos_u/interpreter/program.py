"""Read what vela writes with `--output-format raw`: one .npz with a command stream and its data.

The keys come from vela's `ethosu/vela/rawdata_writer.py`; the header in front of the command
stream, the "driver actions", from its `driver_actions.py`.
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.accelerators import Accelerator, accelerator_of
from mbv3c.targets.ethos_u.interpreter.errors import StreamError, UnsupportedError
from mbv3c.targets.ethos_u.lowering.channels import Channel

_MAGIC = b"COP1"
_CONFIG, _COMMAND_STREAM, _NOP = 1, 2, 5  # DACommands


@dataclass(frozen=True)
class ProgramTensor:
    """An input or output of a program.

    Attributes:
        shape: shape without the ones that vela puts in front.
        element_size: bytes of an element; the file does not say whether elements are signed.
        region: number of the memory region that holds the tensor.
        offset: begin of the tensor in its region, in bytes.
    """

    shape: tuple[int, ...]
    element_size: int
    region: int
    offset: int

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.element_size


@dataclass(frozen=True)
class Program:
    """A command stream with everything it needs but the inputs.

    Attributes:
        accelerator: accelerator for which the program was made.
        words: the command stream, of uint32, without the header.
        constants: bytes of the region of weights, scales and tables.
        constants_region: number of that region.
        scratch: bytes of every other region, by the region's number.
        inputs, outputs: inputs and outputs in the order of the graph.
        weights: weight streams that were already decoded; filled as the program runs.
        channels, tables: constants that were used, and where; filled as the program runs.
    """

    accelerator: Accelerator
    words: NDArray[np.uint32]
    constants: NDArray[np.uint8]
    constants_region: int
    scratch: Mapping[int, int]
    inputs: tuple[ProgramTensor, ...]
    outputs: tuple[ProgramTensor, ...]
    weights: dict[bytes, NDArray[np.int16]] = field(
        default_factory=dict, repr=False, compare=False
    )
    channels: dict[Channel, str] = field(default_factory=dict, repr=False, compare=False)
    tables: dict[bytes, str] = field(default_factory=dict, repr=False, compare=False)


def read_program(path: Path) -> Program:
    """Read a .npz file of vela.

    Raises:
        StreamError: the file is broken, or no raw output of vela.
        UnsupportedError: the program is for an accelerator that the interpreter does not know.
    """
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return _program(file)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StreamError(f"{path} is not a raw output of vela: {error}") from error


def _program(file: Mapping[str, NDArray[Any]]) -> Program:
    # numpy drops the trailing zeros of a byte string; `tobytes` has them.
    accelerator, words = read_driver_actions(file["cmd_data"].tobytes())
    if file["variable_shape"].size:
        raise UnsupportedError("the program keeps variables from one inference to the next")
    constants_region = int(file["weight_region"])
    inputs, outputs = tuple(_tensors(file, "input")), tuple(_tensors(file, "output"))
    scratch: dict[int, int] = {}
    for name in ("scratch", "scratch_fast"):
        region, size = int(file[f"{name}_region"]), int(file[f"{name}_size"])
        if size:
            scratch[region] = max(size, scratch.get(region, 0))
    for tensor in (*inputs, *outputs):
        if tensor.region == constants_region:
            raise StreamError(f"an input or output lies among the constants: {tensor}")
        if tensor.offset + tensor.bytes > scratch.get(tensor.region, 0):
            raise StreamError(f"an input or output ends outside of its region: {tensor}")
    if constants_region in scratch:
        raise StreamError(f"region {constants_region} is both constants and scratch")
    constants = np.frombuffer(file["weight_data"].tobytes(), np.uint8)
    return Program(accelerator, words, constants, constants_region, scratch, inputs, outputs)


def _tensors(file: Mapping[str, NDArray[Any]], kind: str) -> Iterator[ProgramTensor]:
    for shape, size, region, offset in zip(
        file[f"{kind}_shape"],
        file[f"{kind}_elem_size"],
        file[f"{kind}_region"],
        file[f"{kind}_offset"],
        strict=True,
    ):
        sizes = [int(extent) for extent in shape]
        while len(sizes) > 1 and sizes[0] == 1:
            sizes.pop(0)
        yield ProgramTensor(tuple(sizes), int(size), int(region), int(offset))


def read_driver_actions(payload: bytes) -> tuple[Accelerator, NDArray[np.uint32]]:
    """Return the accelerator and the command stream from the payload for the device's driver.

    Raises:
        StreamError: the header is broken or the stream shorter than it says.
        UnsupportedError: the accelerator or a driver action is not known.
    """
    if payload[:4] == b"COP2":
        raise UnsupportedError("driver actions of format COP2; let vela write --cop-format COP1")
    if payload[:4] != _MAGIC or len(payload) % 4:
        raise StreamError("the command stream does not begin with driver actions of format COP1")
    words = np.frombuffer(payload, "<u4")
    accelerator = None
    position = 1
    while position < len(words):
        action, reserved, param = _action(int(words[position]))
        position += 1
        if action == _NOP:
            continue
        if action == _CONFIG:
            if position + 2 > len(words):
                raise StreamError("the driver actions end within the accelerator's configuration")
            accelerator = accelerator_of(int(words[position]))
            position += 2  # CONFIG and ID
        elif action == _COMMAND_STREAM:
            length = reserved << 16 | param
            if position + length != len(words):
                raise StreamError(
                    f"the driver actions announce {length} words of commands,"
                    f" but {len(words) - position} follow"
                )
            if accelerator is None:
                raise StreamError("the driver actions do not say for which accelerator")
            return accelerator, words[position:]
        else:
            raise UnsupportedError(f"driver action {action} at word {position - 1} is not known")
    raise StreamError("the driver actions hold no command stream")


def _action(word: int) -> tuple[int, int, int]:
    return word & 0xFF, word >> 8 & 0xFF, word >> 16
