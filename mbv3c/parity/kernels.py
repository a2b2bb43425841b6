"""Every kernel of a quantized network by itself, in the library that is to be checked.

The outputs of a network say little about a single kernel: the effect of one rounding grows on its
way to the output, and so does the allowed error. So every kernel gets the tensors that onnxruntime
computes for its inputs, within an inference of the library, and its results are compared with
onnxruntime's.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import BundleError
from mbv3c.execution.runners import KernelCall, KernelRunner
from mbv3c.feeds import Feed
from mbv3c.lowering.describe import ArgumentRecord, KernelRecord
from mbv3c.lowering.qdq import read_pairs
from mbv3c.lowering.quantization import Quantization
from mbv3c.manifest import MANIFEST
from mbv3c.parity.metrics import finite
from mbv3c.parity.reference import error_of_range, tensors_of
from mbv3c.parity.tolerance import KERNEL_TOLERANCE, KernelTolerance


@dataclass(frozen=True)
class KernelParity:
    """One tensor that a call of a kernel writes, against onnxruntime's.

    Attributes:
        kernel: name of the kernel in the library.
        nodes: names of the ONNX nodes that the kernel covers.
        tensor: name of the tensor.
        values: number of values of the tensor.
        differing: number of values that are not onnxruntime's.
        wrong: number of differing values that onnxruntime did not round from near a tie.
        steps: largest difference in steps of a quantized tensor; None for fp32.
        allowed_steps: largest allowed difference in steps; None for fp32.
        max_error_of_range: largest difference over the tensor's range.
        passed: whether the kernel passed.
    """

    kernel: str
    nodes: tuple[str, ...]
    tensor: str
    values: int
    differing: int
    wrong: int
    steps: int | None
    allowed_steps: int | None
    max_error_of_range: float
    passed: bool

    @property
    def of_allowed(self) -> tuple[bool, float, float]:
        """A sort key by which the worst kernel is the largest."""
        steps = (self.steps or 0) / max(1, self.allowed_steps or 1)
        return not self.passed, steps, self.wrong / self.values

    @property
    def finding(self) -> str:
        """The kernel and its largest difference, in words."""
        what = ", ".join(self.nodes) or f"makes {self.tensor}"
        if self.steps is None:
            return f"{self.kernel} ({what}): max error {self.max_error_of_range:.1e} of range"
        return (
            f"{self.kernel} ({what}): {self.differing} of {self.values} values differ, "
            f"{self.wrong} of them without a tie, by up to {self.steps} steps (allowed "
            f"{self.allowed_steps})"
        )


@dataclass(frozen=True)
class KernelsParity:
    """Parity of all kernels, each by itself, in the order in which they run."""

    kernels: tuple[KernelParity, ...]

    @property
    def passed(self) -> bool:
        return all(kernel.passed for kernel in self.kernels)

    @property
    def missed(self) -> list[str]:
        """The kernels that did not pass, and by how much, in words."""
        return [kernel.finding for kernel in self.kernels if not kernel.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        worst = max(self.kernels, key=lambda kernel: kernel.of_allowed, default=None)
        rounded = [kernel for kernel in self.kernels if kernel.steps is not None]
        return {
            "passed": self.passed,
            "missed": self.missed,
            "count": len(self.kernels),
            "values": sum(kernel.values for kernel in rounded),
            "differing": sum(kernel.differing for kernel in rounded),
            "worst": worst and worst.finding,
            "steps": max((kernel.steps or 0 for kernel in self.kernels), default=0),
            "kernels": [finite(asdict(kernel)) for kernel in self.kernels],
        }


Array = NDArray[Any]

# The results of these are defined to the last bit: division, rounding, one product, or a copy.
_EXACT = ("quantize", "dequantize", "transpose", "copy")
_BY_TVM = "fallback"
_LOOKED_UP = ("Relu", "Clip", "HardSigmoid", "HardSwish")
_INT8 = "int8"
_IMAGE = 4  # rank of [N, C, H, W]
_MOST_FILLED = 64  # more than the elements of any vector
_TYPES = {np.dtype(code).name for code in np.typecodes["AllInteger"] + "efd?"}


def check_kernels(
    model: onnx.ModelProto,
    kernels: Sequence[KernelRecord],
    x: Feed,
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
        BundleError: no kernel writes a tensor of the model, or arguments do not fit the model.
        Mbv3cError: the library fails, or is not the one that `kernels` describes.
    """
    reference = ReferenceTensors(model, kernels, x)
    known = reference.tensors
    calls = []
    for kernel in kernels:
        for _, argument in arguments_of(kernel):
            _check_argument(argument, reference, bundle)
        calls.append(reference.call(kernel, known, known))
    made = runner.run_kernels(bundle, x, calls)
    compared = []
    for kernel, arrays in zip(kernels, made, strict=True):
        for place, argument in arguments_of(kernel):
            if argument.writes not in known:
                continue
            if arrays[place].size != prod(argument.shape):
                raise _no_description(bundle, f"{kernel.kernel} writes another size")
            compared.append(_compare(kernel, argument, arrays[place], reference, KERNEL_TOLERANCE))
    if not compared:
        raise _no_description(bundle, "no kernel writes a tensor of the model")
    return KernelsParity(tuple(compared))


def _check_argument(argument: ArgumentRecord, reference: "ReferenceTensors", bundle: Path) -> None:
    """Make sure that the tensors of an argument have the type and size that the bundle says.

    Raises:
        BundleError: they have not.
    """
    if argument.dtype not in _TYPES:
        raise _no_description(bundle, f"{argument.dtype!r} is no type of an argument")
    for name in (argument.reads, argument.writes):
        values = reference.tensors.get(name or "")
        if values is None:
            continue
        size, shape, fits = values.size, argument.shape, True
        if argument.channels_last and values.ndim == _IMAGE:
            channels = values.shape[1]  # vectors of them are whole in memory
            fits = bool(shape) and channels <= shape[-1] < channels + _MOST_FILLED
            size = size // max(1, channels) * shape[-1] if fits else 0
        if not fits or size != prod(shape):
            raise _no_description(bundle, f"{name} is not of the shape {shape}")


def _no_description(bundle: Path, reason: str) -> BundleError:
    return BundleError(
        f"{bundle / MANIFEST} does not describe the kernels of its library: {reason}; compile it "
        "again"
    )


class ReferenceTensors:
    """The tensors between the kernels of a library, as onnxruntime computes them for an input.

    Attributes:
        tensors: values of the tensors, by name.
        steps: quantization of the tensors, by name.
    """

    def __init__(self, model: onnx.ModelProto, kernels: Sequence[KernelRecord], x: Feed) -> None:
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
        wanted = names | self.steps.keys() | set(self._unrounded.values())
        self.tensors = tensors_of(model, x, wanted)

    def in_memory(self, name: str, argument: ArgumentRecord) -> Array:
        """Return a tensor in the type and order of a kernel's argument."""
        values = self.tensors[name]
        if argument.dtype == _INT8 and name in self.steps:
            values = self.steps[name].quantize(values)
        return _arranged(values, argument)

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


def arguments_of(kernel: KernelRecord) -> Iterator[tuple[int, ArgumentRecord]]:
    """Yield the arguments that are no constants, with their positions."""
    for place, argument in enumerate(kernel.arguments):
        if argument is not None:
            yield place, argument


def _arranged(values: Array, argument: ArgumentRecord) -> Array:
    """Return values in the order of an argument's memory."""
    if argument.channels_last and values.ndim == _IMAGE:
        values = np.moveaxis(values, 1, -1)
        filled = argument.shape[-1] - values.shape[-1]
        values = np.pad(values, [(0, 0)] * (_IMAGE - 1) + [(0, filled)])
    return np.ascontiguousarray(values)


def _compare(
    kernel: KernelRecord,
    argument: ArgumentRecord,
    ours: Array,
    reference: ReferenceTensors,
    tolerance: KernelTolerance,
) -> KernelParity:
    name = argument.writes
    assert name is not None
    theirs = reference.in_memory(name, argument).ravel()
    read = {other.reads for _, other in arguments_of(kernel) if other.reads is not None}
    defined = kernel.kind in _EXACT
    exact = defined and bool(read) and read <= reference.tensors.keys()
    error = error_of_range(ours.astype(np.float64), theirs.astype(np.float64))
    wrong, apart, allowed = ours != theirs, None, None
    differing = int(wrong.sum())
    if argument.dtype == _INT8 and name in reference.steps:
        apart, allowed = int(np.abs(ours.astype(np.int32) - theirs).max()), int(not exact)
        between = None if defined else reference.between(name, read)
        for rounded in () if exact else filter(None, (name, between)):
            wrong &= ~reference.near_tie(rounded, argument, tolerance.of_step).ravel()
        if between is not None:
            allowed = reference.largest_jump(between, name)
    elif not exact and np.issubdtype(theirs.dtype, np.floating):
        by_tvm = kernel.kind == _BY_TVM
        wrong &= error > (tolerance.of_range_by_tvm if by_tvm else tolerance.of_range)
    return KernelParity(
        kernel=kernel.kernel,
        nodes=tuple(kernel.nodes),
        tensor=name,
        values=ours.size,
        differing=differing,
        wrong=int(wrong.sum()),
        steps=apart,
        allowed_steps=allowed,
        max_error_of_range=error,
        passed=not wrong.any() and (apart is None or allowed is None or apart <= allowed),
    )
