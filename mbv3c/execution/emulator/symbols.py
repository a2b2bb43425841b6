"""Read the functions of a 64-bit ELF library, and where they lie in its file."""

import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _FUNCTION, _LOAD = 2, 2, 1


@dataclass(frozen=True)
class Functions:
    """The functions of a library.

    Attributes:
        offsets: where in the file each begins, ascending.
        names: theirs, in the same order.
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
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ToolError(f"{library} is not a 64-bit ELF library")
    header = _HEADER.unpack_from(data)
    segments_at, sections_at, segments, sections = header[5], header[6], header[10], header[12]
    loaded = [_SEGMENT.unpack_from(data, segments_at + i * header[9]) for i in range(segments)]
    tables = [_SECTION.unpack_from(data, sections_at + i * header[11]) for i in range(sections)]
    symbols = next((table for table in tables if table[1] == _SYMTAB), None)
    if symbols is None:
        raise ToolError(f"{library} was stripped: it has no symbol table")
    names_at = tables[symbols[6]][4]
    found = {}
    for at in range(symbols[4], symbols[4] + symbols[5], _SYMBOL.size):
        name, info, _, section, address, _ = _SYMBOL.unpack_from(data, at)
        if info & 15 != _FUNCTION or section == 0:
            continue
        start = names_at + name
        text = data[start : data.index(b"\0", start)].decode()
        for kind, _, offset, place, _, size, _, _ in loaded:
            if kind == _LOAD and place <= address < place + size:
                found[address - place + offset] = text
    offsets = sorted(found)
    return Functions(tuple(offsets), tuple(found[offset] for offset in offsets))
