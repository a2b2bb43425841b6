"""Every kernel of a quantized network by itself, in the library that is to be checked.

The last tensors of a network say little about one of its kernels: what a single rounding moves
grows on its way, and the limit with it. So every kernel is given the tensors that onnxruntime
computes for its inputs, within an inference of the library, and what it makes of them is compared
with what onnxruntime makes of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.execution.runners import KernelCall, KernelRunner
from mbv3c.lowering.qdq import Steps, read_pairs
from mbv3c.parity.kernel_parity import KernelParity, KernelsAlone
from mbv3c.parity.reference import error_of_range, tensors_of
from mbv3c.parity.tolerance import KERNEL_TOLERANCE, KernelTolerance

Array = NDArray[Any]

# What these do is defined to the last bit: division, rounding, one product, or a copy.
_EXACT = ("quantize", "dequantize", "transpose", "copy")
_LOOKED_UP = ("Relu", "Clip", "HardSigmoid", "HardSwish")
_INT8 = "int8"
_IMAGE = 4  # rank of [N, C, H, W]


def check_kernels(
    model: onnx.ModelProto,
    kernels: Sequence[Mapping[str, Any]],
    x: NDArray[np.float32],
    runner: KernelRunner,
    bundle: Path,
) -> KernelsAlone:
    """Run every kernel of a bundle's library on the tensors that onnxruntime computes.

    Args:
        model: the quantized model.
        kernels: the library's kernels, as its manifest has them.
        x: the model's input.
        runner: what runs the library.
        bundle: a folder with the library.

    Raises:
        Mbv3cError: the library fails, or is not the one that `kernels` describes.
    """
    reference = reference_tensors(model, kernels, x)
    calls = [_call(kernel, reference) for kernel in kernels]
    made = runner.run_kernels(bundle, x, calls)
    return KernelsAlone(
        tuple(
            _judge(kernel, argument, arrays[place], reference, KERNEL_TOLERANCE)
            for kernel, arrays in zip(kernels, made, strict=True)
            for place, argument in _arguments(kernel)
            if argument["writes"] in reference.tensors
        )
    )


def reference_tensors(
    model: onnx.ModelProto, kernels: Sequence[Mapping[str, Any]], x: NDArray[np.float32]
) -> "_Reference":
    """Return the tensors between kernels, as onnxruntime computes them for an input."""
    return _Reference(model, x, _names(kernels))


class _Reference:
    """What onnxruntime computes of a quantized model.

    Attributes:
        tensors: the values of tensors by name.
        steps: how they are quantized.
    """

    def __init__(self, model: onnx.ModelProto, x: NDArray[np.float32], names: set[str]) -> None:
        quantized = read_pairs(model)
        self.steps: Mapping[str, Steps] = quantized.activations
        self._looked_up = {
            node.output[0]: node.input[0]
            for node in quantized.model.graph.node
            if node.op_type in _LOOKED_UP
        }
        pairs = {name: node for node in model.graph.node for name in node.output}
        self._unrounded = {
            name: pairs[pairs[name].input[0]].input[0] for name in self.steps if name in pairs
        }
        wanted = names | self.steps.keys() | set(self._unrounded.values())
        self.tensors = tensors_of(model, x, wanted)

    def in_memory(self, name: str, argument: Mapping[str, Any]) -> Array:
        """Return a tensor as a kernel's argument holds it."""
        values = self.tensors[name]
        if argument["dtype"] == _INT8 and name in self.steps:
            values = self.steps[name].quantize(values)
        return _arranged(values, argument)

    def near_tie(
        self, name: str, argument: Mapping[str, Any], of_step: float
    ) -> NDArray[np.bool_]:
        """Say which values of a tensor were rounded from near the middle of two steps."""
        values = self.tensors[self._unrounded[name]] / np.float32(self.steps[name].scale)
        near: NDArray[np.bool_] = np.abs(values - np.floor(values) - 0.5) <= of_step
        return _arranged(near, argument)

    def between(self, name: str, read: set[str]) -> str | None:
        """Return the tensor that a kernel rounds to on its way to another, and looks up."""
        found = self._looked_up.get(name, "")
        return found if found in self.steps and found not in read else None

    def largest_jump(self, between: str, name: str) -> int:
        """Return how far neighbours in a kernel's table are apart, as far as values show it."""
        before, after = (
            self.steps[one].quantize(self.tensors[one]).ravel().astype(np.int32)
            for one in (between, name)
        )
        seen, first = np.unique(before, return_index=True)
        jumps = np.abs(np.diff(after[first]))[np.diff(seen) == 1]
        return int(jumps.max(initial=1))


def _arguments(kernel: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the arguments that are no constants, with their positions."""
    for place, argument in enumerate(kernel["arguments"]):
        if argument is not None:
            yield place, argument


def _names(kernels: Sequence[Mapping[str, Any]]) -> set[str]:
    return {
        argument[way]
        for kernel in kernels
        for _, argument in _arguments(kernel)
        for way in ("reads", "writes")
        if argument[way] is not None
    }


def _call(kernel: Mapping[str, Any], reference: _Reference) -> KernelCall:
    given = {
        place: reference.in_memory(argument["reads"], argument)
        for place, argument in _arguments(kernel)
        if argument["reads"] in reference.tensors
    }
    wanted = {
        place: argument["dtype"]
        for place, argument in _arguments(kernel)
        if argument["writes"] in reference.tensors
    }
    return KernelCall(kernel["kernel"], given, wanted)


def _arranged(values: Array, argument: Mapping[str, Any]) -> Array:
    """Return values in the order of an argument's memory."""
    if argument["channels_last"] and values.ndim == _IMAGE:
        values = np.moveaxis(values, 1, -1)
        filled = argument["shape"][-1] - values.shape[-1]
        values = np.pad(values, [(0, 0)] * (_IMAGE - 1) + [(0, filled)])
    return np.ascontiguousarray(values)


def _judge(
    kernel: Mapping[str, Any],
    argument: Mapping[str, Any],
    ours: Array,
    reference: _Reference,
    tolerance: KernelTolerance,
) -> KernelParity:
    name = argument["writes"]
    theirs = reference.in_memory(name, argument).ravel()
    read = {one["reads"] for _, one in _arguments(kernel)} - {None}
    defined = kernel["kind"] in _EXACT
    exact = defined and bool(read) and read <= reference.tensors.keys()
    error = error_of_range(ours.astype(np.float64), theirs.astype(np.float64))
    wrong, apart, allowed = ours != theirs, None, None
    differing = int(wrong.sum())
    if argument["dtype"] == _INT8 and name in reference.steps:
        apart, allowed = int(np.abs(ours.astype(np.int32) - theirs).max()), int(not exact)
        between = None if defined else reference.between(name, read)
        for rounded in () if exact else filter(None, (name, between)):
            wrong &= ~reference.near_tie(rounded, argument, tolerance.of_step).ravel()
        if between is not None:
            allowed = reference.largest_jump(between, name)
    elif not exact and np.issubdtype(theirs.dtype, np.floating):
        wrong &= error > tolerance.of_range
    return KernelParity(
        kernel=kernel["kernel"],
        nodes=tuple(kernel["nodes"]),
        tensor=name,
        values=ours.size,
        differing=differing,
        wrong=int(wrong.sum()),
        steps=apart,
        allowed_steps=allowed,
        max_error_of_range=error,
        passed=not wrong.any() and (apart is None or allowed is None or apart <= allowed),
    )
