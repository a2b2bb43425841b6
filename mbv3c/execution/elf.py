"""Read 64-bit little-endian ELF files: segments, sections, and the libraries they need."""

import struct
from dataclasses import dataclass
from pathlib import Path

from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import ToolError

INTERPRETER, SYMBOLS = 3, 2  # kinds of a segment and of a section

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_ENTRY = struct.Struct("<QQ")
_LOAD, _DYNAMIC = 1, 2
_NOTHING_STORED = 8  # kind of a section that only takes memory
_MOST_BYTES = 2**32
_NEEDED, _NAMES = 1, 5


@dataclass(frozen=True)
class Segment:
    """A part of a file that is loaded or tells how to load it.

    Attributes:
        kind: number of its kind.
        offset: first byte in the file.
        address: first byte in memory.
        size: bytes in the file.
    """

    kind: int
    offset: int
    address: int
    size: int


@dataclass(frozen=True)
class Section:
    """A part of a file for linkers and debuggers.

    Attributes:
        kind: number of its kind.
        offset: first byte in the file.
        size: bytes in the file.
        linked: index of another section that this one refers to.
    """

    kind: int
    offset: int
    size: int
    linked: int


@dataclass(frozen=True)
class Elf:
    """An ELF file.

    Attributes:
        data: all bytes of the file.
        segments: parts to load.
        sections: parts for linkers.
    """

    data: bytes
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    def offset_of(self, address: int) -> int | None:
        """Return where in the file an address lies; None where no part of the file is loaded."""
        for segment in self.segments:
            behind = address - segment.address
            if segment.kind == _LOAD and 0 <= behind < segment.size:
                return segment.offset + behind
        return None

    def text(self, offset: int) -> str:
        """Return the text that begins at an offset of the file."""
        return self.data[offset : self.data.find(b"\0", offset)].decode(errors="replace")


def read_elf(path: Path, what: str) -> Elf:
    """Read a file; `what` ("library") is a part of the error message.

    Raises:
        ToolError: it is no 64-bit little-endian ELF file, or not whole: what its header says is
            beyond its end. To load such a file ends the process by SIGBUS.
    """
    try:
        data = read_plain(path, _MOST_BYTES)
    except (OSError, Refused) as error:
        raise ToolError(f"{path} cannot be read: {error}") from error
    if data[:6] != b"\x7fELF\x02\x01":
        raise ToolError(f"{path} is not a 64-bit ELF {what}")
    cut_short = ToolError(f"{path} is no whole ELF {what}: it is cut short or damaged")
    if len(data) < _HEADER.size:
        raise cut_short
    header = _HEADER.unpack_from(data)
    tables = ((_SEGMENT, header[5], header[9], header[10]), (_SECTION, header[6], *header[11:13]))
    for form, start, size, count in tables:
        if count and (size != form.size or start + size * count > len(data)):
            raise cut_short
    segments, sections = (
        [form.unpack_from(data, start + size * i) for i in range(count)]
        for form, start, size, count in tables
    )
    parts = [(row[2], row[5]) for row in segments]
    parts += [(row[4], row[5]) for row in sections if row[1] != _NOTHING_STORED]
    if any(start + size > len(data) for start, size in parts):
        raise cut_short
    return Elf(
        data,
        tuple(Segment(row[0], row[2], row[3], row[5]) for row in segments),
        tuple(Section(row[1], row[4], row[5], row[6]) for row in sections),
    )


def needed(path: Path) -> list[str]:
    """Return the names of the libraries that a program or library is linked with.

    Raises:
        ToolError: it is no 64-bit little-endian ELF file.
    """
    elf = read_elf(path, "file")
    entries = [
        _ENTRY.unpack_from(elf.data, segment.offset + at)
        for segment in elf.segments
        if segment.kind == _DYNAMIC
        for at in range(0, segment.size - _ENTRY.size + 1, _ENTRY.size)
    ]
    names = elf.offset_of(dict(entries).get(_NAMES, 0))
    if names is None:
        return []
    return [elf.text(names + value) for tag, value in entries if tag == _NEEDED]
