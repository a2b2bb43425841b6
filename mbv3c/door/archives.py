"""Zip archives: their list of entries is looked at before anything is unpacked."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mbv3c.door.files import Refused

_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_ENTRIES = 100_000
_MOST_LIST = 32 << 20  # bytes of the list of entries

# The record at the end of an archive, and the one that stands for it in archives of 64 bits.
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_END_MARK, _END_64_MARK, _END_64_PLACE = b"PK\x05\x06", b"PK\x06\x06", 20
_LONGEST_COMMENT = 0xFFFF
_IN_64_BITS = 0xFFFFFFFF

# What Python's reader raises on what is damaged, encrypted or compressed otherwise.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(RuntimeError, OverflowError),
)


@contextmanager
def open_zip(file: BinaryIO, most: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive that says of itself that it unpacks to `most` bytes or less.

    Of an entry no more is unpacked than its size in that list, whatever its data hold.

    Raises:
        Refused: it is damaged, unpacks to more, has two entries of one name, is encrypted or
            compressed by a rare method; also within the context, where an entry is damaged.
    """
    try:
        if _bytes_of_list(file) > _MOST_LIST:
            raise Refused("its list of entries is too long")
        with zipfile.ZipFile(file) as archive:
            _check(archive.infolist(), most)
            yield archive
    except Refused:
        raise
    except _DAMAGE as error:
        raise Refused(f"it is a damaged zip archive, or cut short: {error}") from error


def _check(entries: list[zipfile.ZipInfo], most: int) -> None:
    if len(entries) > _MOST_ENTRIES:
        raise Refused(f"it holds {len(entries):,} entries, and {_MOST_ENTRIES:,} are the most")
    if sum(entry.file_size for entry in entries) > most:
        raise Refused(f"it unpacks to more than {most >> 20:,} MiB")
    if any(entry.flag_bits & 1 or entry.compress_type not in _PLAIN for entry in entries):
        raise Refused("it is encrypted or compressed by a rare method; write it anew without")
    if len({entry.filename for entry in entries}) < len(entries):
        raise Refused("it is damaged: it holds two entries of one name")


def _bytes_of_list(file: BinaryIO) -> int:
    """Return how long the list of entries is, which Python's reader takes into memory whole."""
    end = file.seek(0, 2)
    file.seek(max(0, end - _LONGEST_COMMENT - _END.size - _END_64.size - _END_64_PLACE))
    tail = file.read()
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != _END_MARK or tail[-2:] != b"\0\0":
        at = tail.rfind(_END_MARK)
    if at < 0 or at + _END.size > len(tail):
        return 0  # no archive
    size: int = _END.unpack_from(tail, at)[5]
    if size < _IN_64_BITS:
        return size
    long = tail.rfind(_END_64_MARK, 0, at)
    if long < 0 or long + _END_64.size > len(tail):
        return size
    return int(_END_64.unpack_from(tail, long)[8])
