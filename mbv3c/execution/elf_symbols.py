"""Give the symbols of an ELF object other names.

The code of an object does not depend on its symbols' names, so one object serves networks that
call a kernel by different names.
"""

import struct

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_KIND_OF_SYMBOLS = 2


def renamed(data: bytes, old: str, new: str) -> bytes:
    """Return an object in whose symbols' names `new` stands in the place of `old`.

    The names go to the end of the file, into a longer copy of the section that had them.

    Args:
        data: a 64-bit little-endian ELF object with one table of symbols, as LLVM writes it.
        old: a part of names.
        new: what comes into its place.

    Raises:
        ValueError: it is no such object.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit little-endian ELF object")
    header = _HEADER.unpack_from(data)
    sections_at, count = header[6], header[12]
    sections = [
        list(_SECTION.unpack_from(data, sections_at + index * _SECTION.size))
        for index in range(count)
    ]
    tables = [section for section in sections if section[1] == _KIND_OF_SYMBOLS]
    if len(tables) != 1:
        raise ValueError(f"{len(tables)} tables of symbols, and not one")
    (_, _, _, _, begin, size, linked, *_) = tables[0]
    texts = sections[linked]
    names = bytearray(data[texts[4] : texts[4] + texts[5]])
    changed = bytearray(data)
    for at in range(begin, begin + size, _SYMBOL.size):
        first = _SYMBOL.unpack_from(data, at)[0]
        name = bytes(names[first : names.index(0, first)])
        if old.encode() in name:
            struct.pack_into("<I", changed, at, len(names))
            names += name.replace(old.encode(), new.encode()) + b"\0"
    texts[4], texts[5] = len(changed), len(names)
    _SECTION.pack_into(changed, sections_at + linked * _SECTION.size, *texts)
    return bytes(changed + names)
