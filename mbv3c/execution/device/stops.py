"""Stop between the kernels on a served device: other inputs for them, and what they make.

The library of a session, or its virtual machine, calls a function before and after every kernel;
it knows the function by its name. A client sends the arrays first, in the form of an .npz file,
and fetches the others after the inference: files and their names are data, and no pickle is read.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGIN, STOP, END = "mbv3c.device.begin", "mbv3c.device.stop", "mbv3c.device.end"

_BUILTIN = "vm."  # what the virtual machine calls beside the kernels
_WANTED, _NAMES = "wanted", "names"

# Arrays by the place of a call and the position of an argument.
Places = dict[tuple[int, int], NDArray[Any]]


def packed(arrays: Mapping[tuple[int, int], NDArray[Any]], **texts: object) -> bytes:
    """Return arrays by call and position, and values of JSON, as bytes."""
    stream = io.BytesIO()
    named = {f"{call}.{place}": array for (call, place), array in arrays.items()}
    text = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    np.savez(stream, allow_pickle=False, texts=text, **named)
    return stream.getvalue()


def unpacked(data: bytes) -> tuple[Places, dict[str, Any]]:
    """Read what `packed` wrote.

    Raises:
        ValueError: it is something else.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        texts = json.loads(file["texts"].tobytes())
        places = {}
        for name in file.files:
            if name != "texts":
                call, _, place = name.partition(".")
                places[int(call), int(place)] = file[name]
    return places, texts


def request_for(given: Places, wanted: list[tuple[int, int]]) -> bytes:
    """Return what `BEGIN` takes: arrays to write before calls, and what is wanted after them."""
    return packed(given, **{_WANTED: wanted})


def answer_of(data: bytes) -> tuple[Places, list[str]]:
    """Read what `END` gives: what was wanted, and the names of the kernels in their order."""
    made, texts = unpacked(data)
    return made, [str(name) for name in texts[_NAMES]]


def stops_of(remote: Any) -> tuple[Any, Any] | None:
    """Return what begins and ends to stop between kernels; None of a server that cannot."""
    try:
        return remote.get_function(BEGIN), remote.get_function(END)
    except (AttributeError, RuntimeError, ValueError):
        return None


class Stops:
    """What a session calls for a client that stops between kernels."""

    def __init__(self) -> None:
        self._given: Places = {}
        self._wanted: list[tuple[int, int]] = []
        self._made: Places = {}
        self._names: list[str] = []

    def functions(self) -> dict[str, Any]:
        """Return the functions that a session registers, by name."""
        # The virtual machine takes what a function of this name returns.
        return {BEGIN: self._begin, STOP: lambda *_: self._stop, END: self._end}

    def _begin(self, data: bytes) -> None:
        self._given, texts = unpacked(bytes(data))
        self._wanted = [(int(call), int(place)) for call, place in texts[_WANTED]]
        self._made, self._names = {}, []

    def _stop(self, _: Any, name: str, before: bool, __: Any, *arguments: Any) -> None:
        if name.startswith(_BUILTIN):
            return
        if before:
            self._names.append(str(name))
        at = len(self._names) - 1
        if before:
            for (call, place), array in self._given.items():
                if call == at:
                    arguments[place].copyfrom(array.reshape(arguments[place].shape))
            return
        for call, place in self._wanted:
            if call == at:
                self._made[call, place] = arguments[place].numpy().ravel()

    def _end(self) -> bytearray:
        answer = packed(self._made, **{_NAMES: self._names})
        self._given, self._wanted, self._made, self._names = {}, [], {}, []
        return bytearray(answer)
