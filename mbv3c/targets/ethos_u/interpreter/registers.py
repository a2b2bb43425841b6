"""Decode a command stream into commands, and keep the registers that they set.

Numbers and names of commands are imported from vela (`ethosu.vela.ethos_u55_regs`). A word holds a
command's number in bits 0 to 9 and a parameter in bits 16 to 31. Bits 14 and 15 say whether a
second word follows with a payload (`command_no_payload_t`, `command_with_payload_t`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ethosu.vela.ethos_u55_regs.ethos_u55_regs import cmd0, cmd1
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError

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
