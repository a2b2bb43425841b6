"""Changes of files at random: bytes, fields of messages, values of documents."""

import random
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import onnx
import pytest
from google.protobuf.message import Message

NUMBERS = (-1, 0, 1, 2, 255, 1 << 31, (1 << 31) - 1, (1 << 63) - 1, -(1 << 63), 7)
FLOATS = (0.0, -1.0, 1e30, float("inf"), float("nan"), 1e-45)
TEXTS = ("", "x", "/dev/zero", "../x", "\x1b[2J", "Loop", "If", "Constant", "body", "z" * 300)
LITTLE = (b"", b"\0", b"\xff" * 8, b"\x80", b"\x01\x02\x03\x04" * 4)


def seeds(config: pytest.Config) -> Iterator[int]:
    """Count seeds: 100, as a test finds them again on any machine, or for so long as is asked."""
    first, seconds = config.getoption("--fuzz-seed"), config.getoption("--seconds")
    if seconds is None:
        yield from range(first, first + 100)
        return
    end = time.monotonic() + seconds
    for seed in count(first):
        if time.monotonic() >= end:
            return
        yield seed


def bytes_changed(data: bytes, chosen: random.Random) -> bytes:
    """Return data with bytes flipped, dropped, written twice or replaced, or cut short."""
    changed = bytearray(data)
    for _ in range(chosen.choice((1, 1, 2, 8))):
        if not changed:
            break
        at = chosen.randrange(len(changed))
        if chosen.random() < 0.5:  # headers come first
            at = min(at, chosen.randrange(1, 200))
        length = chosen.choice((1, 2, 4, 8, 64))
        match chosen.randrange(6):
            case 0:
                changed[at] ^= 1 << chosen.randrange(8)
            case 1:
                changed[at] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                number = chosen.choice(NUMBERS) % (1 << 64)
                changed[at : at + length] = number.to_bytes(8, "little")[:length]
            case 5:
                del changed[at:]
    return bytes(changed)


def model_changed(model: onnx.ModelProto, chosen: random.Random) -> onnx.ModelProto:
    """Return a model in which some fields have other values, are gone, or there twice."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for _ in range(chosen.choice((1, 1, 1, 2, 4))):
        _change(chosen.choice(list(_messages(changed))), chosen)
    return changed


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _change(message: Message, chosen: random.Random) -> None:
    fields = message.DESCRIPTOR.fields
    present = [field for field, _ in message.ListFields()]
    field = chosen.choice(present if present and chosen.random() < 0.8 else fields)
    way = chosen.randrange(4)
    if way == 0:
        message.ClearField(field.name)
    elif field.is_repeated:
        items = getattr(message, field.name)
        if way == 1 and items:
            del items[chosen.randrange(len(items))]
        elif field.message_type is not None:
            other = chosen.choice(list(items)) if items else None
            items.add().CopyFrom(other or field.message_type._concrete_class())
        else:
            items.insert(chosen.randint(0, len(items)), _value(field, chosen))
    elif field.message_type is None:
        setattr(message, field.name, _value(field, chosen))
    else:
        getattr(message, field.name).SetInParent()


def _value(field: Any, chosen: random.Random) -> Any:
    if field.enum_type is not None:
        return chosen.choice(field.enum_type.values).number
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return chosen.choice(FLOATS)
    if field.type == field.TYPE_STRING:
        return chosen.choice(TEXTS)
    if field.type == field.TYPE_BYTES:
        return chosen.choice(LITTLE)
    value = chosen.choice(NUMBERS)
    if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        value = abs(value)
    bits = 31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 63
    return max(-(1 << bits), min(value, (1 << bits) - 1))
