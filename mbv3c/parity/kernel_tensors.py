"""The tensors between the kernels of a library, in the order of the kernels' memory."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.execution.runners import KernelCall
from mbv3c.feeds import Feed
from mbv3c.lowering.describe import ArgumentRecord, KernelRecord
from mbv3c.lowering.qdq import read_pairs
from mbv3c.lowering.quantization import Quantization
from mbv3c.parity.reference import tensors_of

Array = NDArray[Any]

_LOOKED_UP = ("Relu", "Clip", "HardSigmoid", "HardSwish")
INT8, HALF = "int8", "float16"
_IMAGE = 4  # rank of [N, C, H, W]


class ReferenceTensors:
    """The tensors between the kernels of a library, as onnxruntime computes them for an input.

    Attributes:
        tensors: values of the tensors, by name.
        steps: quantization of the tensors, by name.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        kernels: Sequence[KernelRecord],
        x: Feed,
        more: Collection[str] = (),
    ) -> None:
        """Run onnxruntime; `more` names tensors that no kernel reads or writes."""
        quantized = read_pairs(model)
        self.steps: Mapping[str, Quantization] = quantized.activations
        self._looked_up = {
            node.output[0]: node.input[0]
            for node in quantized.model.graph.node
            if node.op_type in _LOOKED_UP
        }
        pairs = {name: node for node in model.graph.node for name in node.output}
        self._unrounded = {
            name: pairs[pairs[name].input[0]].input[0] for name in self.steps if name in pairs
        }
        arguments = [argument for kernel in kernels for _, argument in arguments_of(kernel)]
        names = {
            name for argument in arguments for name in (argument.reads, argument.writes) if name
        }
        wanted = names | self.steps.keys() | self.between_steps | {*more}
        self.tensors = tensors_of(model, x, wanted)

    @property
    def between_steps(self) -> set[str]:
        """The tensors of which rounding makes those that are quantized."""
        return set(self._unrounded.values())

    def of(self, tensors: Mapping[str, Array]) -> "ReferenceTensors":
        """Return the same with other values; what is not among them is as before."""
        other = copy(self)
        other.tensors = {**self.tensors, **tensors}
        return other

    def rounded(self, name: str, values: Array, kernel: KernelRecord) -> Array:
        """Return values of a tensor such as the arguments of a kernel can hold."""
        for _, argument in arguments_of(kernel):
            if argument.reads != name:
                continue
            if argument.dtype == INT8 and name in self.steps:
                steps = self.steps[name]
                values = steps.dequantize(steps.quantize(values))
            elif argument.dtype == HALF:
                with np.errstate(over="ignore"):
                    values = values.astype(np.float16).astype(values.dtype)
        return values

    def in_memory(self, name: str, argument: ArgumentRecord) -> Array:
        """Return a tensor in the type and order of a kernel's argument."""
        values = self.tensors[name]
        if argument.dtype == INT8 and name in self.steps:
            values = self.steps[name].quantize(values)
        return arranged(values, argument)

    def call(
        self, kernel: KernelRecord, given: Collection[str], wanted: Collection[str]
    ) -> KernelCall:
        """Return a call of a kernel that gets given tensors and of which others are wanted.

        Both are names; those that the kernel does not read, or write, do not matter.
        """
        places = list(arguments_of(kernel))
        inputs = {
            place: self.in_memory(argument.reads, argument).astype(argument.dtype, copy=False)
            for place, argument in places
            if argument.reads is not None and argument.reads in given
        }
        outputs = {
            place: argument.dtype for place, argument in places if argument.writes in wanted
        }
        return KernelCall(kernel.kernel, inputs, outputs)

    def near_tie(self, name: str, argument: ArgumentRecord, of_step: float) -> NDArray[np.bool_]:
        """Tell which values of a tensor were rounded from near the middle of two steps."""
        values = self.tensors[self._unrounded[name]] / np.float32(self.steps[name].scale)
        near: NDArray[np.bool_] = np.abs(values - np.floor(values) - 0.5) <= of_step
        return arranged(near, argument)

    def between(self, name: str, read: set[str]) -> str | None:
        """Return the tensor that a kernel rounds to, and then looks up in a table to get another.

        It is None if the kernel reads that tensor, or makes the other one without a table.
        """
        source = self._looked_up.get(name, "")
        return source if source in self.steps and source not in read else None

    def largest_jump(self, between: str, name: str) -> int:
        """Return the largest step between neighbours in a kernel's table that values show."""
        before, after = (
            self.steps[tensor].quantize(self.tensors[tensor]).ravel().astype(np.int32)
            for tensor in (between, name)
        )
        seen, first = np.unique(before, return_index=True)
        jumps = np.abs(np.diff(after[first]))[np.diff(seen) == 1]
        return int(jumps.max(initial=1))


def arguments_of(kernel: KernelRecord) -> Iterator[tuple[int, ArgumentRecord]]:
    """Yield the arguments that are no constants, with their positions."""
    for place, argument in enumerate(kernel.arguments):
        if argument is not None:
            yield place, argument


def arranged(values: Array, argument: ArgumentRecord) -> Array:
    """Return values in the order of an argument's memory."""
    if argument.channels_last and values.ndim == _IMAGE:
        values = np.moveaxis(values, 1, -1)
        filled = argument.shape[-1] - values.shape[-1]
        values = np.pad(values, [(0, 0)] * (_IMAGE - 1) + [(0, filled)])
    return np.ascontiguousarray(values)
