"""Read 64-bit little-endian ELF files: segments, sections, and the libraries they need."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mbv3c.door.files import Refused, plain_file
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
    with _opened(path) as file:
        data = file.read()
    return Elf(data, *_tables(io.BytesIO(data), len(data), path, what))


def check_whole(path: Path, what: str) -> None:
    """Make sure that a file can be loaded, by its header and tables alone.

    Raises:
        ToolError: as `read_elf` says.
    """
    with _opened(path) as file:
        _tables(file, os.fstat(file.fileno()).st_size, path, what)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with plain_file(path, _MOST_BYTES) as file:
            yield file
    except (OSError, Refused) as error:
        raise ToolError(f"{path} cannot be read: {error}") from error


def _tables(
    file: BinaryIO, size: int, path: Path, what: str
) -> tuple[tuple[Segment, ...], tuple[Section, ...]]:
    """Read the segments and sections of a file of some size."""
    start = file.read(_HEADER.size)
    if start[:6] != b"\x7fELF\x02\x01":
        raise ToolError(f"{path} is not a 64-bit ELF {what}")
    cut_short = ToolError(f"{path} is no whole ELF {what}: it is cut short or damaged")
    if len(start) < _HEADER.size:
        raise cut_short
    header, rows = _HEADER.unpack(start), []
    tables = ((_SEGMENT, header[5], header[9], header[10]), (_SECTION, header[6], *header[11:13]))
    for form, begin, each, count in tables:
        if count and (each != form.size or begin + each * count > size):
            raise cut_short
        file.seek(begin)
        rows.append([form.unpack(file.read(form.size)) for _ in range(count)])
    segments, sections = rows
    parts = [(row[2], row[5]) for row in segments]
    parts += [(row[4], row[5]) for row in sections if row[1] != _NOTHING_STORED]
    if any(begin + length > size for begin, length in parts):
        raise cut_short
    return (
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
