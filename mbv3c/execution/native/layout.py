"""How a program lies in a library: what driver.c runs, and what `verify` reads.

    program     magic, version, and how many of each there are, and where
    functions   arena, first call, number of calls, inputs and outputs, most arguments, name
    calls       kernel, first argument, number of arguments
    tensors     the arguments: where each lies, in which extents, of which type
    extents     the extents of all tensors
    names       where the name of each kernel begins, then the names, each with a 0 behind it
    constants   each from a multiple of 64 bytes on, equal ones once

Numbers are little-endian. Places are bytes from the program's first one. The structures of
driver.c are those of the formats here.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import IO

import numpy as np
import tvm
from numpy.typing import NDArray

from mbv3c.lowering.arena import ALIGNMENT, aligned
from mbv3c.lowering.program import CONSTANT, PLACES, Function, Program

MAGIC = b"mbv3cNET"
VERSION = 1
# DLPack's kinds of numbers: signed, unsigned, float, boolean.
KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}

PROGRAM = struct.Struct("<8sIIIIIIQQQQQQQ")
FUNCTION = struct.Struct("<QIIIIII")
CALL = struct.Struct("<IIII")
TENSOR = struct.Struct("<QIBBBB")
EXTENT = struct.Struct("<q")
NAME = struct.Struct("<I")

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Laid:
    """A program as it is to be written.

    Attributes:
        kernels: the names of the kernels, in the order in which the program counts them.
        tables: everything but the constants.
        constants: the place and the bytes of each, with no two alike.
    """

    kernels: tuple[str, ...]
    tables: bytes
    constants: tuple[tuple[int, Bytes], ...]

    def write(self, file: IO[bytes]) -> None:
        """Write it into a file."""
        at = file.write(self.tables)
        for place, data in self.constants:
            file.write(bytes(place - at))
            file.write(data.data)
            at = place + data.nbytes


def laid_out(program: Program) -> Laid:
    """Say where everything of a program lies."""
    calls = [call for function in program.functions for call in function.calls]
    kernels = tuple(dict.fromkeys(call.kernel for call in calls))
    numbers = {name: number for number, name in enumerate(kernels)}
    tensors = [tensor for call in calls for tensor in call.arguments]
    shapes: dict[tuple[int, ...], int] = {}
    for tensor in tensors:
        shapes.setdefault(tensor.shape, sum(map(len, shapes)))
    texts, names = _texts([*kernels, *(function.name for function in program.functions)])
    sizes = (
        FUNCTION.size * len(program.functions),
        CALL.size * len(calls),
        TENSOR.size * len(tensors),
        EXTENT.size * sum(map(len, shapes)),
        NAME.size * len(kernels) + len(texts),
    )
    places = [aligned(PROGRAM.size, ALIGNMENT)]
    for size in sizes:
        places.append(places[-1] + aligned(size, 8))
    *places, end = places
    first_name = places[4] + NAME.size * len(kernels)
    own, end = _placed(program.constants, aligned(end, ALIGNMENT))
    at = [own[number][0] for number in range(len(program.constants))]
    stored = {place: data for place, data in own if data is not None}
    constants_at = min(stored, default=end)
    tables = [
        PROGRAM.pack(
            *(MAGIC, VERSION, len(program.functions), len(calls), len(tensors)),
            *(sum(map(len, shapes)), len(kernels), *places, constants_at, end),
        ),
        b"".join(_functions(program.functions, first_name, names[len(kernels) :])),
        b"".join(_calls(program.functions, numbers)),
        b"".join(
            TENSOR.pack(
                at[one.at] if one.place == CONSTANT else one.at,
                shapes[one.shape],
                PLACES.index(one.place),
                len(one.shape),
                *_number_type(one.dtype),
            )
            for one in tensors
        ),
        b"".join(EXTENT.pack(extent) for shape in shapes for extent in shape),
        b"".join(NAME.pack(first_name + name) for name in names[: len(kernels)]) + texts,
    ]
    written = bytearray()
    for place, table in zip((0, *places), tables, strict=True):
        written += bytes(place - len(written)) + table
    return Laid(kernels, bytes(written), tuple(sorted(stored.items())))


def _texts(names: Sequence[str]) -> tuple[bytes, list[int]]:
    """Return names one behind another, and where each begins."""
    texts, begins = bytearray(), []
    for name in names:
        begins.append(len(texts))
        texts += name.encode() + b"\0"
    return bytes(texts), begins


def _placed(
    arrays: Sequence[tvm.runtime.Tensor], begin: int
) -> tuple[list[tuple[int, Bytes | None]], int]:
    """Give every array a place, equal ones the same; of these only the first has its bytes."""
    known: dict[tuple[int, bytes], int] = {}
    placed: list[tuple[int, Bytes | None]] = []
    end = begin
    for array in arrays:
        data = np.from_dlpack(array).reshape(-1).view(np.uint8)
        key = data.nbytes, hashlib.sha256(data.data).digest()
        if key in known:
            placed.append((known[key], None))
            continue
        known[key] = aligned(end, ALIGNMENT)
        placed.append((known[key], data))
        end = known[key] + data.nbytes
    return placed, end


def _functions(
    functions: Sequence[Function], first_name: int, names: Sequence[int]
) -> Iterator[bytes]:
    first = 0
    for function, name in zip(functions, names, strict=True):
        calls = function.calls
        yield FUNCTION.pack(
            function.arena_bytes,
            first,
            len(calls),
            len(function.inputs),
            len(function.outputs),
            max([1, *(len(call.arguments) for call in calls)]),
            first_name + name,
        )
        first += len(calls)


def _calls(functions: Sequence[Function], numbers: dict[str, int]) -> Iterator[bytes]:
    first = 0
    for call in (call for function in functions for call in function.calls):
        yield CALL.pack(numbers[call.kernel], first, len(call.arguments), 0)
        first += len(call.arguments)


def _number_type(dtype: str) -> tuple[int, int]:
    """Return DLPack's kind and the bits of an element type."""
    kind = tvm.DataType(dtype)
    return int(kind.type_code), int(kind.bits)


def elements(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    return prod(shape)
