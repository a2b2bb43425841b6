"""Every kernel of a quantized network by itself, in the library that is to be checked.

The outputs of a network say little about a single kernel: the effect of one rounding grows on its
way to the output, and so does the allowed error. So every kernel gets the tensors that onnxruntime
computes for its inputs, within an inference of the library, and its results are compared with
onnxruntime's.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.execution.runners import KernelCall, KernelRunner
from mbv3c.lowering.qdq import Steps, read_pairs
from mbv3c.parity.kernel_parity import KernelParity, KernelsParity
from mbv3c.parity.reference import error_of_range, tensors_of
from mbv3c.parity.tolerance import KERNEL_TOLERANCE, KernelTolerance

Array = NDArray[Any]

# The results of these are defined to the last bit: division, rounding, one product, or a copy.
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
) -> KernelsParity:
    """Run every kernel of a bundle's library on the tensors that onnxruntime computes.

    Args:
        model: the quantized model.
        kernels: the library's kernels, as in the bundle's manifest.
        x: input of the model.
        runner: runner of the library.
        bundle: folder of the library.

    Raises:
        Mbv3cError: the library fails, or is not the one that `kernels` describes.
    """
    reference = reference_tensors(model, kernels, x)
    calls = [_call(kernel, reference) for kernel in kernels]
    made = runner.run_kernels(bundle, x, calls)
    return KernelsParity(
        tuple(
            _compare(kernel, argument, arrays[place], reference, KERNEL_TOLERANCE)
            for kernel, arrays in zip(kernels, made, strict=True)
            for place, argument in _arguments(kernel)
            if argument["writes"] in reference.tensors
        )
    )


class ReferenceTensors:
    """Tensors of a quantized model, as onnxruntime computes them.

    Attributes:
        tensors: values of the tensors, by name.
        steps: quantization of the tensors, by name.
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
        """Return a tensor in the type and order of a kernel's argument."""
        values = self.tensors[name]
        if argument["dtype"] == _INT8 and name in self.steps:
            values = self.steps[name].quantize(values)
        return _arranged(values, argument)

    def near_tie(
        self, name: str, argument: Mapping[str, Any], of_step: float
    ) -> NDArray[np.bool_]:
        """Tell which values of a tensor were rounded from near the middle of two steps."""
        values = self.tensors[self._unrounded[name]] / np.float32(self.steps[name].scale)
        near: NDArray[np.bool_] = np.abs(values - np.floor(values) - 0.5) <= of_step
        return _arranged(near, argument)

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


def reference_tensors(
    model: onnx.ModelProto, kernels: Sequence[Mapping[str, Any]], x: NDArray[np.float32]
) -> ReferenceTensors:
    """Return the tensors between kernels, as onnxruntime computes them for an input."""
    return ReferenceTensors(model, x, _names(kernels))


def _arguments(kernel: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the arguments that are no constants, with their positions."""
    for place, argument in enumerate(kernel["arguments"]):
        if argument is not None:
            yield place, argument


def _names(kernels: Sequence[Mapping[str, Any]]) -> set[str]:
    return {
        argument[access]
        for kernel in kernels
        for _, argument in _arguments(kernel)
        for access in ("reads", "writes")
        if argument[access] is not None
    }


def _call(kernel: Mapping[str, Any], reference: ReferenceTensors) -> KernelCall:
    inputs = {
        place: reference.in_memory(argument["reads"], argument)
        for place, argument in _arguments(kernel)
        if argument["reads"] in reference.tensors
    }
    outputs = {
        place: argument["dtype"]
        for place, argument in _arguments(kernel)
        if argument["writes"] in reference.tensors
    }
    return KernelCall(kernel["kernel"], inputs, outputs)


def _arranged(values: Array, argument: Mapping[str, Any]) -> Array:
    """Return values in the order of an argument's memory."""
    if argument["channels_last"] and values.ndim == _IMAGE:
        values = np.moveaxis(values, 1, -1)
        filled = argument["shape"][-1] - values.shape[-1]
        values = np.pad(values, [(0, 0)] * (_IMAGE - 1) + [(0, filled)])
    return np.ascontiguousarray(values)


def _compare(
    kernel: Mapping[str, Any],
    argument: Mapping[str, Any],
    ours: Array,
    reference: ReferenceTensors,
    tolerance: KernelTolerance,
) -> KernelParity:
    name = argument["writes"]
    theirs = reference.in_memory(name, argument).ravel()
    read = {other["reads"] for _, other in _arguments(kernel)} - {None}
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
