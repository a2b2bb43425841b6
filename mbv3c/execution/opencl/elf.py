"""Read which shared libraries an ELF file needs."""

import struct
from pathlib import Path

from mbv3c.errors import ToolError

_DYNAMIC, _LOAD = 2, 1
_NEEDED, _STRTAB = 1, 5


def needed(path: Path) -> list[str]:
    """Return the names of the libraries that a program or library is linked with.

    Raises:
        ToolError: it is no 64-bit little-endian ELF file.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ToolError(f"{path} is not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, table + size * i) for i in range(count)]
    entries = [
        struct.unpack_from("<QQ", data, segment[2] + at)
        for segment in segments
        if segment[0] == _DYNAMIC
        for at in range(0, segment[5], 16)
    ]
    address = dict(entries).get(_STRTAB, 0)
    for kind, _, offset, start, _, filled, _, _ in segments:
        if kind == _LOAD and start <= address < start + filled:
            names = offset + address - start
            return [_text(data, names + value) for tag, value in entries if tag == _NEEDED]
    return []


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
