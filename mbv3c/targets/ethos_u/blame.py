"""Name the layers at which a command stream differs from the intended stream."""

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
    program: Program, intended: Program, region: Region, integers: NDArray[np.int8]
) -> list[str]:
    """Return the layers whose commands or constants differ between two streams.

    If commands differ, these are the layer of the first such command or, if that layer has no
    weights, the next layers with weights on both sides. If constants differ, these are all layers
    with other constants or, if the program stops early, the first such layer.

    Args:
        program: a stream.
        intended: the stream as it should be.
        region: the region that both streams compute.
        integers: an input on which both streams run.
    """
    interpret(intended, [integers])
    layers = {
        _word(place): region.channels[channel]
        for channel, place in intended.channels.items()
        if channel in region.channels
    }
    first = _first_difference(program.words, intended.words)
    if first is not None:
        return _around(layers, intended, first)
    stopped = False
    try:
        interpret(program, [integers])
    except (StreamError, InterpreterError):
        stopped = True
    missing = intended.channels.keys() - program.channels.keys()
    words = sorted({_word(intended.channels[channel]) for channel in missing})
    differing = [layers[word] for word in words if word in layers]
    if stopped:
        return differing[:1]
    tables = [region.tables[table] for table in intended.tables if table not in program.tables]
    return list(dict.fromkeys([*differing, *tables]))


def _first_difference(words: NDArray[Any], intended: NDArray[Any]) -> int | None:
    same = min(len(words), len(intended))
    differing = np.flatnonzero(words[:same] != intended[:same])
    if differing.size:
        return int(differing[0])
    return None if len(words) == len(intended) else same


def _around(layers: Mapping[int, str], intended: Program, first: int) -> list[str]:
    """Return the layer of the operation of a word, or the layers with weights on both sides."""
    operations = [
        command.word
        for command in decode(intended.words)
        if command.name.startswith("OP_") and command.name not in _NO_OPERATION
    ]
    own = next((word for word in operations if word >= first), operations[-1])
    if own in layers:
        return [layers[own]]
    before = [layers[word] for word in sorted(layers) if word < own]
    after = [layers[word] for word in sorted(layers) if word > own]
    return list(dict.fromkeys([*before[-1:], *after[:1]]))


def _word(place: str) -> int:
    """Return the word at which an operation stands, from a place in `Program.channels`."""
    return int(place.rsplit(" ", 1)[1])
