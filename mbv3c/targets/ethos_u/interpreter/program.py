"""The programs that vela writes with `--output-format raw`: read, decoded, matched with a device.

The keys come from vela's `ethosu/vela/rawdata_writer.py`; the header in front of the command
stream, the "driver actions", from its `driver_actions.py`.

Accelerators are data, from `accelerator_configs` and `max_outstanding_dma` in vela's
`ethosu/vela/architecture_features.py`, and the fields of the CONFIG register (`config_r` in
`ethosu/vela/ethos_u55_regs/ethos_u55_regs.py`).

Numbers and names of commands are imported from vela (`ethosu.vela.ethos_u55_regs`). A word holds a
command's number in bits 0 to 9 and a parameter in bits 16 to 31. Bits 14 and 15 say whether a
second word follows with a payload (`command_no_payload_t`, `command_with_payload_t`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from ethosu.vela.ethos_u55_regs.ethos_u55_regs import cmd0, cmd1
from numpy.typing import NDArray

from mbv3c.door.arrays import open_arrays
from mbv3c.errors import Mbv3cError
from mbv3c.targets.ethos_u.lowering.region import Channel


class InterpreterError(Mbv3cError):
    """A command stream was not executed to its end; nothing of its output is to be trusted.

    Attributes:
        operation: name of the command that was being executed; None outside of commands.
        word: position of that command, in 32-bit words from the start of the stream.
    """

    kind = "npu"

    def __init__(
        self, message: str, operation: str | None = None, word: int | None = None
    ) -> None:
        where = "" if operation is None else f"{operation} at word {word}: "
        super().__init__(where + message)
        self.reason = message
        self.operation = operation
        self.word = word

    def at(self, operation: str, word: int) -> Self:
        """Return the error with a place, unless it has one."""
        if self.operation is not None:
            return self
        return type(self)(self.reason, operation, word)


class StreamError(InterpreterError):
    """The program contradicts itself: broken words, weights, addresses or sums."""


class UnsupportedError(InterpreterError):
    """The program may be right, but the interpreter does not know what it means."""


_NAMES = {
    False: {command.value: command.name.removeprefix("NPU_") for command in cmd0},
    True: {command.value: command.name.removeprefix("NPU_") for command in cmd1},
}
_STOP = "OP_STOP"
_ADDRESS_BITS = 40


@dataclass(frozen=True)
class Command:
    """A command of a stream.

    Attributes:
        word: offset in the stream, in 32-bit words.
        name: name in vela's `cmd0` and `cmd1`, without `NPU_`.
        param: parameter of 16 bits.
        payload: the second word; None if there is none.
    """

    word: int
    name: str
    param: int
    payload: int | None


def decode(words: NDArray[np.uint32]) -> Iterator[Command]:
    """Yield the commands of a stream, the last of them OP_STOP.

    Raises:
        StreamError: a word is no command, or the stream does not end in OP_STOP.
    """
    position = 0
    while position < len(words):
        word = int(words[position])
        start, position = position, position + 1
        has_payload = word & 0xC000 == 0x4000
        name = _NAMES[has_payload].get(word & 0x3FF)
        if name is None or word & 0x3C00 or word & 0x8000:
            raise StreamError(f"{word:#010x} is no command", "decoding", start)
        payload = None
        if has_payload:
            if position == len(words):
                raise StreamError("the stream ends before the payload", name, start)
            payload, position = int(words[position]), position + 1
        yield Command(start, name, word >> 16, payload)
        if name == _STOP:
            if position != len(words):
                raise StreamError(f"{len(words) - position} words follow", name, start)
            return
    raise StreamError("the stream ends without OP_STOP", "decoding", position)


class Registers:
    """The state that SET commands leave for later operations.

    Registers have no value before they are set: what they hold after a reset is not documented.
    Names are those of the commands without `NPU_SET_`.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[int, int | None]] = {}

    def set(self, command: Command) -> None:
        """Store what a command sets whose name begins with `SET_`."""
        self._values[command.name.removeprefix("SET_")] = (command.param, command.payload)

    def __getitem__(self, name: str) -> int:
        """Return a register of 16 bits, as an unsigned number."""
        param, payload = self._value(name)
        assert payload is None, f"{name} has a payload"
        return param

    def address(self, name: str) -> int:
        """Return a register of 48 bits: the parameter holds the upper ones."""
        param, payload = self._value(name)
        assert payload is not None, f"{name} has no payload"
        return param << 32 | payload

    def signed_address(self, name: str) -> int:
        """Return a register of 40 bits in two's complement; strides may be negative."""
        value = self.address(name)
        # vela writes addresses of 40 bits, negative ones in two's complement.
        if value >> _ADDRESS_BITS:
            raise StreamError(f"{name} {value:#x} has more than {_ADDRESS_BITS} bits")
        return value - (1 << _ADDRESS_BITS) if value >> (_ADDRESS_BITS - 1) else value

    def pair(self, name: str) -> tuple[int, int]:
        """Return parameter and payload, such as a shift and a scale."""
        param, payload = self._value(name)
        assert payload is not None, f"{name} has no payload"
        return param, payload

    def _value(self, name: str) -> tuple[int, int | None]:
        try:
            return self._values[name]
        except KeyError:
            raise StreamError(f"register {name} was never set") from None


U55 = 0
U65 = 1


@dataclass(frozen=True)
class Accelerator:
    """An accelerator, as far as the meaning of a command stream depends on it.

    Attributes:
        name: name in vela's `--accelerator-config`.
        product: value of the field `product` of CONFIG.
        macs: multiply-accumulates per cycle, of all cores.
        ofm_ublock_depth, ifm_ublock_depth: output and input channels of a step of the multipliers,
            by which weights are ordered.
        shram_bytes: size of the internal memory; its last 2 KiB hold the lookup tables.
        copies: number of copies that can be under way at a time.
        lut_is_shared: whether the accumulators of an operation without a table may overwrite the
            tables.
    """

    name: str
    product: int
    macs: int
    ofm_ublock_depth: int
    ifm_ublock_depth: int
    shram_bytes: int
    copies: int
    lut_is_shared: bool


ACCELERATORS = (
    Accelerator("ethos-u55-32", U55, 32, 4, 8, 16 << 10, 1, lut_is_shared=True),
    Accelerator("ethos-u55-64", U55, 64, 8, 8, 16 << 10, 1, lut_is_shared=True),
    Accelerator("ethos-u55-128", U55, 128, 8, 8, 24 << 10, 1, lut_is_shared=False),
    Accelerator("ethos-u55-256", U55, 256, 8, 8, 48 << 10, 1, lut_is_shared=False),
    Accelerator("ethos-u65-256", U65, 256, 8, 8, 48 << 10, 2, lut_is_shared=False),
)


def accelerator_of(config: int) -> Accelerator:
    """Return the accelerator for which a stream was made, by its word of the CONFIG register.

    Raises:
        UnsupportedError: it is unknown, such as Ethos-U65-512 (two cores) or Ethos-U85.
    """
    product, macs, shram = config >> 28, 1 << (config & 0xF), (config >> 8 & 0xFF) << 10
    configured = (product, macs, shram)
    for accelerator in ACCELERATORS:
        if (accelerator.product, accelerator.macs, accelerator.shram_bytes) == configured:
            return accelerator
    known = ", ".join(accelerator.name for accelerator in ACCELERATORS)
    family = {U55: "Ethos-U55", U65: "Ethos-U65", 2: "Ethos-U85"}.get(product, "unknown product")
    raise UnsupportedError(
        f"the stream is for {family} with {macs} MACs and {shram >> 10} KiB of internal memory;"
        f" known: {known}"
    )


_MOST_SCRATCH = 1 << 30  # bytes of a region: more than networks for these devices need
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
        return prod(self.shape) * self.element_size

    @property
    def is_possible(self) -> bool:
        """Whether it has extents, a place, and elements of a size that devices know."""
        return min(self.shape, default=1) > 0 <= self.offset and self.element_size in (1, 2, 4)


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
        with open_arrays(path, kinds="biufS") as file:
            return _program(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StreamError(f"{path} is not a raw output of vela: {error}") from error


def _program(file: Mapping[str, NDArray[Any]]) -> Program:
    # numpy drops the trailing zeros of a byte string; `tobytes` has them.
    accelerator, words = read_driver_actions(file["cmd_data"].tobytes())
    if file["variable_shape"].size:
        raise UnsupportedError("the program keeps variables from one inference to the next")
    constants_region = int(file["weight_region"])
    inputs, outputs = tuple(_tensors(file, "input")), tuple(_tensors(file, "output"))
    scratch = scratch_bytes(file)
    for region, size in scratch.items():
        if not 0 < size <= _MOST_SCRATCH:
            raise UnsupportedError(
                f"region {region} of {size:,} bytes, where {_MOST_SCRATCH:,} are the most"
            )
    for tensor in (*inputs, *outputs):
        if not tensor.is_possible:
            raise StreamError(f"an input or output that no device has: {tensor}")
        if tensor.region == constants_region:
            raise StreamError(f"an input or output lies among the constants: {tensor}")
        if tensor.offset + tensor.bytes > scratch.get(tensor.region, 0):
            raise StreamError(f"an input or output ends outside of its region: {tensor}")
    if constants_region in scratch:
        raise StreamError(f"region {constants_region} is both constants and scratch")
    constants = np.frombuffer(file["weight_data"].tobytes(), np.uint8)
    return Program(accelerator, words, constants, constants_region, scratch, inputs, outputs)


def scratch_bytes(file: Mapping[str, NDArray[Any]]) -> dict[int, int]:
    """Return the bytes of every region but that of the constants, by the region's number."""
    scratch: dict[int, int] = {}
    for name in ("scratch", "scratch_fast"):
        region, size = int(file[f"{name}_region"]), int(file[f"{name}_size"])
        if size:
            scratch[region] = max(size, scratch.get(region, 0))
    return scratch


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
