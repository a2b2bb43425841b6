"""Name the layers of a command stream that are not those of another one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.errors import InterpreterError, StreamError
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import Program
from mbv3c.targets.ethos_u.interpreter.registers import decode
from mbv3c.targets.ethos_u.lowering.region import Region

_NO_OPERATION = ("OP_DMA_START", "OP_DMA_WAIT", "OP_KERNEL_WAIT", "OP_PMU_MASK")


def differing_layers(
    program: Program, right: Program, region: Region, integers: NDArray[np.int8]
) -> list[str]:
    """Return the layers whose commands or constants in `program` are not those in `right`.

    Of commands it is the layer of the first one that differs; where that has no weights, the
    layers with weights on both sides of it. Of constants, all layers that have other ones; where
    the program cannot be run to its end, the one at which it stops.

    Args:
        program: a stream.
        right: the same as it should be.
        region: what both compute.
        integers: an input on which they run.
    """
    interpret(right, [integers])
    layers = {
        _word(place): region.channels[one]
        for one, place in right.channels.items()
        if one in region.channels
    }
    first = _first_difference(program.words, right.words)
    if first is not None:
        return _around(layers, right, first)
    stopped = False
    try:
        interpret(program, [integers])
    except (StreamError, InterpreterError):
        stopped = True
    words = sorted(
        {_word(place) for one, place in right.channels.items() if one not in program.channels}
    )
    found = [layers[word] for word in words if word in layers]
    if stopped:
        return found[:1]
    tables = [region.tables[one] for one in right.tables if one not in program.tables]
    return list(dict.fromkeys([*found, *tables]))


def _first_difference(words: NDArray[Any], right: NDArray[Any]) -> int | None:
    same = min(len(words), len(right))
    differing = np.flatnonzero(words[:same] != right[:same])
    if differing.size:
        return int(differing[0])
    return None if len(words) == len(right) else same


def _around(layers: Mapping[int, str], right: Program, first: int) -> list[str]:
    """Return the layer of the operation to which a word belongs, or those on both sides of it."""
    operations = [
        command.word
        for command in decode(right.words)
        if command.name.startswith("OP_") and command.name not in _NO_OPERATION
    ]
    own = next((word for word in operations if word >= first), operations[-1])
    if own in layers:
        return [layers[own]]
    before = [layers[word] for word in sorted(layers) if word < own]
    after = [layers[word] for word in sorted(layers) if word > own]
    return list(dict.fromkeys([*before[-1:], *after[:1]]))


def _word(place: str) -> int:
    """Return where an operation stands, as `Program.channels` says it."""
    return int(place.rsplit(" ", 1)[1])
