"""Run a network part by part: the CPU's in onnxruntime, the NPU's by what is given for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.feeds import Array, Feed, arrays_of
from mbv3c.parity.running import run, session
from mbv3c.targets.one_chip.parts import Network

# Gives the outputs of a part of the NPU, by its number among those, for its inputs: N, H, W, C.
Answer = Callable[[int, Sequence[NDArray[np.int8]]], Sequence[NDArray[Any]]]


class Chain:
    """The parts of a network, opened once."""

    def __init__(self, network: Network, models: Mapping[int, onnx.ModelProto]) -> None:
        """Take the parts of the CPU as models, by the number of the part."""
        self._network = network
        self._opened = {number: session(model) for number, model in models.items()}

    def run(self, x: Feed, answer: Answer) -> dict[str, Array]:
        """Return every tensor between two parts, as it lies there, and the outputs, by name."""
        network = self._network
        tensors: dict[str, Array] = dict(zip(network.inputs, arrays_of(x), strict=True))
        streams = 0
        for number, part in enumerate(network.parts):
            given = tuple(tensors[name] for name in part.reads)
            if part.region is None:
                made = run(self._opened[number], given)
            else:
                made = [np.asarray(array) for array in answer(streams, given)]
                streams += 1
            for name, array in zip(part.makes, made, strict=True):
                edge = network.edges[name]
                tensors[name] = np.ascontiguousarray(array.reshape(edge.place_shape), edge.dtype)
        return tensors


class Remembered:
    """An answer that is given once for equal inputs."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._known: dict[tuple[int, bytes], Sequence[NDArray[Any]]] = {}

    def __call__(self, number: int, inputs: Sequence[NDArray[np.int8]]) -> Sequence[NDArray[Any]]:
        key = number, b"".join(each.tobytes() for each in inputs)
        if key not in self._known:
            self._known[key] = self._answer(number, inputs)
        return self._known[key]
