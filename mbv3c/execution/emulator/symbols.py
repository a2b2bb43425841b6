"""Read the functions of a 64-bit ELF library, and where they lie in its file."""

import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.elf import SYMBOLS, read_elf

_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTION = 2


@dataclass(frozen=True)
class Functions:
    """The functions of a library.

    Attributes:
        offsets: first byte in the file of each function, ascending.
        names: name of each function, in the order of `offsets`.
    """

    offsets: tuple[int, ...]
    names: tuple[str, ...]

    def at(self, offset: int) -> str | None:
        """Return the last function that begins at or before an offset in the file.

        LLVM gives the body of a parallel loop no symbol, and puts it behind its function.
        """
        index = bisect_right(self.offsets, offset) - 1
        return self.names[index] if index >= 0 else None


def functions(library: Path) -> Functions:
    """Read the symbol table of a library that was not stripped.

    Raises:
        ToolError: it is no 64-bit little-endian ELF file, or has no symbol table.
    """
    elf = read_elf(library, "library")
    symbols = next((section for section in elf.sections if section.kind == SYMBOLS), None)
    if symbols is None:
        raise ToolError(f"{library} was stripped: it has no symbol table")
    texts = elf.sections[symbols.linked].offset
    names = {}
    for at in range(symbols.offset, symbols.offset + symbols.size, _SYMBOL.size):
        name, info, _, section, address, _ = _SYMBOL.unpack_from(elf.data, at)
        offset = elf.offset_of(address) if info & 15 == _FUNCTION and section else None
        if offset is not None:
            names[offset] = elf.text(texts + name)
    offsets = sorted(names)
    return Functions(tuple(offsets), tuple(names[offset] for offset in offsets))
