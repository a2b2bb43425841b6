"""The bytes of an ONNX file, counted before a library makes objects of them.

A message of two bytes becomes an object of a hundred. So files are walked along their tags first,
which takes no memory: what is nested too deep, or holds too much of anything, is not read at all.

Source: Protocol Buffers, "Encoding"; the fields are those of onnx's own descriptors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from mmap import mmap
from typing import Any

import onnx

from mbv3c.door.files import Refused

LONGEST_NAME = 1 << 16  # bytes
MOST_ITEMS = 3_000_000  # messages, texts and numbers that are stored one by one
_MOST_PACKED = 1 << 28  # bytes of numbers that are stored together, of one byte or more each
_DEEPEST = 60  # messages; a graph in a node is three deeper

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_FREE_TEXTS = {"doc_string", "value"}  # which may be long: descriptions, metadata
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class _Field:
    name: str
    message: Any = None
    is_text: bool = False
    is_packed: bool = False


@dataclass
class _Walk:
    """A walk over a file; `items` counts what was met."""

    data: memoryview
    longest: int
    items: int = 0
    packed: int = 0


def check_wire(data: bytes | memoryview | mmap, longest: int = LONGEST_NAME) -> None:
    """Walk over the bytes of an ONNX model, whose names have `longest` bytes at most.

    It takes a microsecond for each item, and ends at the first that is too much.

    Raises:
        Refused: the bytes are no protocol buffer or are cut short, hold text that is not UTF-8, or
            more than a model for an edge device has.
    """
    with memoryview(data) as view:
        walk = _Walk(view, longest)
        try:
            _message(walk, onnx.ModelProto.DESCRIPTOR.full_name, 0, len(view), 0)
        except IndexError as error:
            raise Refused("it is cut short") from error


def _message(walk: _Walk, kind: str, at: int, end: int, depth: int) -> None:
    if depth > _DEEPEST:
        raise Refused(f"it is nested deeper than {_DEEPEST // 3} graphs in each other")
    fields, data = _fields(kind), walk.data
    while at < end:
        walk.items += 1
        if walk.items > MOST_ITEMS:
            raise Refused(
                f"it holds more than {MOST_ITEMS:,} items (nodes, names, attributes, …); mbv3c "
                "compiles networks for edge devices"
            )
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(data, at - 1)
        form = tag & 7
        if form == _BYTES:
            size = data[at]
            at += 1
            if size > 0x7F:
                size, at = _varint(data, at - 1)
            stop = at + size
            if stop > end:
                raise Refused("it is cut short")
            known = fields.get(tag >> 3)
            if known is not None:
                _bytes(walk, known, at, stop, depth)
            at = stop
        elif form == _VARINT:
            while data[at] > 0x7F:
                at += 1
            at += 1
        elif form in (_FIXED_64, _FIXED_32):
            at += 8 if form == _FIXED_64 else 4
        else:
            raise Refused(f"byte {at:,} begins nothing that ONNX has")
    if at > end:
        raise Refused("it is cut short")


def _bytes(walk: _Walk, known: _Field, at: int, stop: int, depth: int) -> None:
    if known.message is not None:
        _message(walk, known.message, at, stop, depth + 1)
    elif known.is_packed:
        walk.packed += stop - at
        if walk.packed > _MOST_PACKED:
            raise Refused(f"it lists more than {_MOST_PACKED >> 20} MiB of numbers one by one")
    elif known.is_text:
        if stop - at > walk.longest and known.name not in _FREE_TEXTS:
            raise Refused(
                f"a {known.name} in it has {stop - at:,} bytes, and {walk.longest:,} are the most"
            )
        try:
            str(walk.data[at:stop], "utf-8")
        except UnicodeDecodeError as error:
            raise Refused(f"a {known.name} in it is no text in UTF-8") from error


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise Refused(f"byte {at:,} begins no number")


@cache
def _fields(kind: str) -> Mapping[int, _Field]:
    """Return the fields of a kind of message that hold bytes, by their numbers."""
    descriptor = onnx.ModelProto.DESCRIPTOR.file.pool.FindMessageTypeByName(kind)
    return {
        one.number: _Field(
            one.name,
            one.message_type.full_name if one.type == one.TYPE_MESSAGE else None,
            one.type == one.TYPE_STRING,
            # Floats and doubles take in memory what they take in the file.
            one.type in (one.TYPE_INT32, one.TYPE_INT64, one.TYPE_UINT64, one.TYPE_ENUM),
        )
        for one in descriptor.fields
    }
