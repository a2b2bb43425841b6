"""Read what a library runs: its calls of kernels, with their constants.

A CPU's library has them in the program of its driver (`mbv3c.execution.native`). In a GPU's, and
in those that mbv3c made before, TVM's virtual machine makes them, whose program TVM links into it
as bytes (`VMExecutable::SaveToBytes` in TVM's src/runtime/vm/executable.cc): the functions, the
constants, and the instructions. They are read here as they lie in the file, for any processor, and
nothing of the library is loaded.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import BundleError
from mbv3c.execution.native.layout import KINDS
from mbv3c.execution.native.reading import DamagedError, StoredArray, stored_calls

_MAGIC = struct.pack("<Q", 0xD225DE2F4214151E)
_TENSOR_MAGIC = 0xDD5E40F096B4A13F
_KERNELS = "vm."  # what is called beside the kernels begins so
_CALL, _RETURN, _GOTO, _IF = 1, 2, 3, 4
_WORDS = {_RETURN: 2, _GOTO: 2, _IF: 3}
_CALL_HEAD = 4  # words: the code, the register, the function, the number of arguments
_VALUE_BITS = 56
_CONSTANT = 2  # kind of an argument
_VM_FUNCTION = 1
_MOST_DIMS = 16

# TVM's numbers of the types that a constant may have.
_INT, _FLOAT, _DTYPE, _STRING, _SHAPE, _TENSOR = 1, 3, 5, 65, 69, 70


@dataclass(frozen=True)
class Constant:
    """An array that lies in a library.

    Attributes:
        values: the array, as the kernel reads it.
        offset: where its first byte lies in the file.
    """

    values: NDArray[Any]
    offset: int


@dataclass(frozen=True)
class LinkedCall:
    """A call of a kernel, as a library has it.

    Attributes:
        kernel: name of the kernel.
        arguments: the arguments in order; None for memory that other kernels write.
    """

    kernel: str
    arguments: tuple[Constant | None, ...]


def read_calls(library: Path, entry: str) -> tuple[LinkedCall, ...]:
    """Return the calls of kernels that a function of a library makes, in their order.

    Raises:
        BundleError: the library holds no such function, or is damaged.
    """
    try:
        data = library.read_bytes()
        stored = stored_calls(data, entry)
        if stored is None:
            return tuple(_calls(data, entry))
        return tuple(
            LinkedCall(call.kernel, tuple(_stored(data, each) for each in call.arguments))
            for call in stored
        )
    except (DamagedError, struct.error, UnicodeDecodeError) as error:
        raise BundleError(
            f"{library} is damaged: its program cannot be read ({error}); compile it again"
        ) from error


def _stored(data: bytes, array: StoredArray | None) -> Constant | None:
    if array is None:
        return None
    values = np.frombuffer(data, array.dtype, prod(array.shape), array.offset)
    return Constant(values.reshape(array.shape), array.offset)


class _Reader:
    """Reads numbers, texts and arrays one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> int:
        """Return where the next bytes begin, and go on behind them."""
        start = self.at
        if size < 0 or start + size > len(self.data):
            raise DamagedError(f"it ends within what begins at byte {start}")
        self.at = start + size
        return start

    def numbers(self, form: str) -> tuple[int, ...]:
        start = self.take(struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{form}", self.data, start)

    def number(self, form: str = "Q") -> int:
        return self.numbers(form)[0]

    def text(self) -> str:
        size = self.number()
        start = self.take(size)
        return self.data[start : start + size].decode()

    def words(self) -> NDArray[np.int64]:
        count = self.number()
        return np.frombuffer(self.data, "<i8", count, self.take(8 * count))


def _calls(data: bytes, entry: str) -> Iterator[LinkedCall]:
    if data.count(_MAGIC) != 1:
        raise DamagedError(f"{data.count(_MAGIC)} places begin as a program does")
    reader = _Reader(data, data.index(_MAGIC) + len(_MAGIC))
    reader.text()  # the version
    functions = [_function(reader) for _ in range(reader.number())]
    for _ in range(reader.number()):  # memory that a device has beside its usual one
        reader.number("q")
        reader.text()
    constants = [_constant(reader) for _ in range(reader.number())]
    offsets, words = reader.words(), reader.words()
    ranges = [(first, end) for name, kind, first, end in functions if name == entry and kind]
    if len(ranges) != 1:
        raise DamagedError(f"it has {len(ranges)} functions {entry!r}")
    for place in range(*ranges[0]):
        if not 0 <= place < len(offsets):
            raise DamagedError(f"there is no instruction {place}")
        function, arguments = _call(words, int(offsets[place]))
        if function is None:
            continue
        if not 0 <= function < len(functions):
            raise DamagedError(f"instruction {place} calls function {function}")
        name = functions[function][0]
        if not name.startswith(_KERNELS):
            yield LinkedCall(name, tuple(_argument(one, constants) for one in arguments))


def _function(reader: _Reader) -> tuple[str, bool, int, int]:
    """Read a function: name, whether it has instructions, the first of them, and their end."""
    kind, name = reader.number("i"), reader.text()
    first, end, _, _ = reader.numbers("qqqq")
    for _ in range(reader.number()):
        reader.text()
    return name, kind == _VM_FUNCTION, first, end


def _constant(reader: _Reader) -> Constant | None:
    """Read a constant; None for one that is no array."""
    kind = reader.number("i")
    if kind == _TENSOR:
        return _tensor(reader)
    if kind == _STRING:
        reader.text()
    elif kind == _SHAPE:
        reader.words()
    elif kind in (_INT, _FLOAT):
        reader.take(8)
    elif kind == _DTYPE:
        reader.take(4)
    else:
        raise DamagedError(f"{kind} is no type of a constant")
    return None


def _tensor(reader: _Reader) -> Constant:
    magic, _ = reader.numbers("QQ")
    _, _, rank = reader.numbers("iii")  # the device's type and number come first
    code, bits, lanes = reader.numbers("BBH")
    if magic != _TENSOR_MAGIC or not 0 <= rank <= _MOST_DIMS or code not in KINDS or lanes != 1:
        raise DamagedError(f"no array ends at byte {reader.at}")
    shape = reader.numbers(f"{rank}q")
    try:
        dtype = np.dtype(f"<{KINDS[code]}{bits // 8}")
    except TypeError as error:
        raise DamagedError(f"an array has numbers of {bits} bits") from error
    size = reader.number("q")
    if min(shape, default=0) < 0 or size != prod(shape) * dtype.itemsize:
        raise DamagedError(f"an array of {shape} has {size} bytes")
    offset = reader.take(size)
    values = np.frombuffer(reader.data, dtype, prod(shape), offset).reshape(shape)
    return Constant(values, offset)


def _call(words: NDArray[np.int64], at: int) -> tuple[int | None, list[int]]:
    """Read an instruction; return the function that it calls, None for no call, and the rest."""
    if not 0 <= at <= len(words) - 2:
        raise DamagedError(f"there is no instruction at word {at}")
    code = int(words[at])
    if code in _WORDS:
        return None, []
    if code != _CALL or at + _CALL_HEAD > len(words):
        raise DamagedError(f"{code} is no instruction")
    count = int(words[at + 3])
    if not 0 <= count <= len(words) - at - _CALL_HEAD:
        raise DamagedError(f"a call has {count} arguments")
    return int(words[at + 2]), words[at + _CALL_HEAD : at + _CALL_HEAD + count].tolist()


def _argument(word: int, constants: list[Constant | None]) -> Constant | None:
    kind, index = word >> _VALUE_BITS, word & ((1 << _VALUE_BITS) - 1)
    if kind != _CONSTANT:
        return None
    if index >= len(constants):
        raise DamagedError(f"there is no constant {index}")
    return constants[index]
