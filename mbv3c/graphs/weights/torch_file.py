"""Read a state dict that torch.save wrote (torch 1.6 and later), without torch.

Such a file is a zip archive: `data.pkl` says which tensors there are, `data/0`, `data/1` … hold
their bytes. A pickle is a program. It is not run here, but interpreted: only the few instructions
that a state dict needs. Nothing is imported or called by name: the three functions and the storage
types that torch writes are known here; every other name or instruction is refused.

Source: torch's `serialization.py` and `_weights_only_unpickler.py`.
"""

import pickletools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import ModelError

Array = NDArray[Any]

_DTYPES = {
    "torch DoubleStorage": "f8",
    "torch FloatStorage": "f4",
    "torch HalfStorage": "f2",
    "torch BFloat16Storage": "u2",
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ALLOWED = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_DTYPES}

_MOST_INSTRUCTIONS = 1_000_000  # a checkpoint of Large with its optimizer has some 50,000

# Instructions that push their argument; that of NONE is None.
_LITERALS = {
    *("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE"),
}

_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}

_MOST_DIMENSIONS = 8

# What a damaged or hostile pickle makes the interpreter below do.
_DAMAGE = (ValueError, TypeError, IndexError, KeyError, OverflowError)


@dataclass(frozen=True)
class _Global:
    """A name that stands in the pickle: module, blank, attribute."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers that lie side by side; a tensor is a view of a storage."""

    values: Array


class _Mark:
    """The place on the stack where a list of items begins."""


def read_torch(path: Path, content: Mapping[str, bytes]) -> dict[str, Array]:
    """Return the tensors of a state dict by name; bf16 comes as fp32.

    A checkpoint that holds one state dict under a name, such as `{"state_dict": …}`, is opened.
    Values that are no tensors are left out.

    Args:
        path: the file, for messages.
        content: the entries of the zip archive by name.

    Raises:
        ModelError: the file is damaged, holds no or several state dicts, or asks for something
            that a state dict does not need.
    """
    programs = [name for name in content if name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ModelError(f"{path} holds {len(programs)} files data.pkl, a state dict has one")
    folder = programs[0].removesuffix("data.pkl")
    try:
        with warnings.catch_warnings(action="ignore"):  # pickletools', of escapes in names
            loaded = _Interpreter(folder, content).run()
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise ModelError(f"{path} is damaged, or no state dict: {error}") from error
    return _state_dict(path, loaded)


def _state_dict(path: Path, loaded: object) -> dict[str, Array]:
    tensors = _tensors(loaded)
    if not tensors and isinstance(loaded, dict):
        inner = {key: nested for key in loaded if (nested := _tensors(loaded[key]))}
        if len(inner) > 1:
            listed = ", ".join(map(repr, inner))
            raise ModelError(f"{path} holds several state dicts ({listed}); save one alone")
        tensors = next(iter(inner.values()), {})
    if not tensors:
        raise ModelError(f"{path} holds no state dict; save model.state_dict()")
    return tensors


def _tensors(value: object) -> dict[str, Array]:
    if not isinstance(value, dict):
        return {}
    return {
        key: tensor
        for key, tensor in value.items()
        if isinstance(key, str) and isinstance(tensor, np.ndarray)
    }


class _Interpreter:
    """Interprets one data.pkl. Tensors are views of their storages, never copies."""

    def __init__(self, folder: str, content: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._content = content
        order = content.get(f"{folder}byteorder", b"little")
        self._order = {b"little": "<", b"big": ">"}[order.strip()]
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[tuple[str, str], Array] = {}

    def run(self) -> object:
        instructions = pickletools.genops(self._content[f"{self._folder}data.pkl"])
        for number, (opcode, argument, _) in enumerate(instructions):
            if opcode.name == "STOP":
                break
            if number > _MOST_INSTRUCTIONS:
                raise ModelError(f"its pickle has more than {_MOST_INSTRUCTIONS:,} instructions")
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_Mark())
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case _ if name in _LITERALS:
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case _ if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(reversed([stack.pop() for _ in range(int(name[-1]))])))
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._marked())
            case "SETITEM":
                self._set_items(list(reversed([stack.pop(), stack.pop()])))
            case "SETITEMS":
                self._set_items(self._marked())
            case "GLOBAL":
                stack.append(_allowed(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise ValueError("a name that is no text")
                stack.append(_allowed(f"{module} {attribute}"))
            case "BINPERSID":
                stack.append(self._storage(*stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
            case "BUILD":
                stack.pop()  # a state dict's _metadata: versions of its modules
                if not isinstance(stack[-1], dict):
                    raise ValueError("state for something that is no dict")
            case _:
                raise ModelError(f"its pickle uses {name}, which a state dict does not need")

    def _marked(self) -> list[Any]:
        """Pop and return what was pushed since the last mark, and pop the mark."""
        items: list[Any] = []
        while not isinstance(item := self._stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("items for something that is no list")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        keys = items[::2]
        if not isinstance(target, dict) or not all(map(_is_key, keys)):
            raise ValueError("items for something that is no dict of names")
        target.update(zip(keys, items[1::2], strict=True))

    def _storage(self, kind: str, dtype: _Global, key: str, _device: str, count: int) -> _Storage:
        if kind != "storage" or not isinstance(dtype, _Global) or not isinstance(key, str):
            raise ValueError("a reference to something that is no storage")
        if (dtype.name, key) not in self._storages:
            data = self._content.get(f"{self._folder}data/{key}")
            if data is None:
                raise ValueError(f"the storage {key!r} is missing")
            values = np.frombuffer(data, self._order + _DTYPES[dtype.name])
            if dtype.name == "torch BFloat16Storage":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            self._storages[dtype.name, key] = values
        values = self._storages[dtype.name, key]
        if type(count) is not int or not 0 <= count <= values.size:
            raise ValueError(f"the storage {key!r} is cut short")
        return _Storage(values[:count])


def _is_key(key: object) -> bool:
    """Say whether something is a name, or a number like those of an optimizer's parameters.

    Numbers of many digits can be chosen so that a dict takes time with the square of its size.
    """
    return isinstance(key, str) or (isinstance(key, int) and 0 <= key < _MOST_INSTRUCTIONS)


def _allowed(name: str) -> _Global:
    if name not in _ALLOWED:
        raise ModelError(
            f"it asks for {name.replace(' ', '.', 1)!r}, which a state dict does not need; "
            "nothing was run. Save model.state_dict() alone"
        )
    return _Global(name)


def _called(function: object, arguments: Any) -> object:
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is no function")
    if function.name == _ORDERED_DICT and not arguments:
        return {}
    if function.name == _PARAMETER and isinstance(arguments[0], np.ndarray):
        return arguments[0]
    if function.name == _TENSOR:
        return _tensor(*arguments[:4])
    raise ValueError(f"a call of {function.name} that torch does not write")


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Array:
    """Return the view of a storage that torch's size, stride and offset describe, in elements."""
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, _Storage)
        or not all(type(number) is int and number >= 0 for number in numbers)
        or len(shape) != len(strides)
        or len(shape) > _MOST_DIMENSIONS
    ):
        raise ValueError("a tensor without a proper storage, size and stride")
    values = storage.values
    if prod(shape) == 0:
        return np.zeros(shape, values.dtype)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if last >= values.size or prod(shape) > values.size:
        raise ValueError("a tensor that reaches beyond its storage")
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
