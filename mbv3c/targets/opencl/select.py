"""Choose a kernel for every node of a rewritten graph that a GPU runs."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray

from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.plan import Array, Plan, Value
from mbv3c.lowering.schedules.epilogue import LINEAR
from mbv3c.lowering.select import Branch, Selector
from mbv3c.lowering.shapes import Depthwise, Elementwise, GlobalPool
from mbv3c.targets.opencl.gpu import Gpu
from mbv3c.targets.opencl.kernels import GpuKernels
from mbv3c.targets.opencl.schedules import depthwise, launch
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap
from mbv3c.targets.opencl.schedules.gates import Gates
from mbv3c.targets.opencl.schedules.pointwise import Product


def select_gpu(
    model: onnx.ModelProto,
    gpu: Gpu,
    target: tvm.target.Target,
    dtype: str = "float32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Plan:
    """Return the plan of a rewritten graph with fixed shapes.

    The kernels store what is float32 in the graph as `dtype`, and add in single precision. Inputs,
    outputs and what the fallback computes keep their types; so do nodes whose names match a
    pattern of `keep_float`. Kernels that `choices` knows are as it says.

    Raises:
        ModelError: a node has no known shape, the fallback cannot lower it, or `dtype` cannot
            hold its weights.
    """
    return _GpuSelector(model, gpu, target, dtype, keep_float, choices).run()


class _GpuSelector(Selector):
    """Of a squeeze-and-excitation branch only the gates are computed.

    The depthwise convolution before it writes sums beside its map, and the pointwise convolution
    after it multiplies the map by the gates as it reads it. A map that anything else reads is
    scaled by a kernel of its own.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        gpu: Gpu,
        target: tvm.target.Target,
        dtype: str,
        keep_float: Sequence[str] = (),
        choices: Choices = NO_CHOICES,
    ) -> None:
        self._gpu_kernels = GpuKernels(gpu, choices)
        super().__init__(model, self._gpu_kernels, target, dtype, keep_float)
        self._sums: dict[str, tuple[str, int]] = {}  # of a tensor: the value, and its parts
        self._gated: dict[str, tuple[str, str]] = {}  # of a tensor: what is scaled, the gates

    def _emit_depthwise(
        self, covered: Sequence[onnx.NodeProto], shape: Depthwise, weights: Array, bias: Array
    ) -> None:
        result = covered[-1].output[0]
        if not self._is_pooled(result):
            super()._emit_depthwise(covered, shape, weights, bias)
            return
        one = DepthwiseMap(shape, sums=True)
        kernel = self._gpu_kernels.depthwise_map(one, weights, bias)
        parts = depthwise.parts(one, kernel.knobs)
        sums = self._new_value(f"{result}.sums", (shape.batch, parts, shape.channels))
        x = self._value(covered[0].input[0], channels_last=True)
        self._make(result)
        self._append(
            "depthwise",
            covered,
            kernel.function,
            (x, *kernel.constants, result, sums),
            (result, sums),
            shape.madds,
            kernel.knobs,
        )
        self._note(kernel)
        self._hold(result, result, channels_last=not self._is_flat(result))
        self._sums[result] = (sums, parts)

    def _is_pooled(self, name: str) -> bool:
        """Say whether a tensor goes into a squeeze-and-excitation branch."""
        return any(self._gates_of(user) is not None for user in self._users.get(name, []))

    def _gates_of(self, pool: onnx.NodeProto) -> Branch | None:
        """Return the branch that begins with a node, if it has a gate for every channel."""
        branch = self._branch(pool)
        if branch is None or branch.w2.shape[0] != self._shape(pool.input[0])[1]:
            return None
        return branch

    def _squeeze_excite(self, node: onnx.NodeProto) -> bool:
        """Take pool → 1x1 → activation → 1x1 → activation → Mul with what was pooled."""
        branch = self._gates_of(node)
        if branch is None or not self._is_value(node.input[0]):
            return False
        x, result = node.input[0], branch.nodes[-1].output[0]
        batch, channels, *sides = self._shape(x)
        sums, parts, places = self._sums_of(x, prod(sides))
        shape = Gates(
            batch,
            parts,
            places,
            channels,
            branch.w1.shape[0],
            branch.reduce,
            branch.gate,
            self._kernel_type,
            self._plan.values[sums].dtype,
        )
        kernel = self._gpu_kernels.gates(shape, branch.w1, branch.b1, branch.w2, branch.b2)
        gates, means = (
            self._new_value(f"{result}.{name}", (batch, channels)) for name in ("gates", "means")
        )
        reduced = self._new_value(f"{result}.reduced", (batch, shape.squeezed))
        self._append(
            "gates",
            branch.nodes,
            kernel.function,
            (sums, *kernel.constants, gates, means, reduced),
            (gates, means, reduced),
            shape.madds,
            kernel.knobs,
        )
        self._note(kernel)
        self._gated[result] = (x, gates)
        return True

    def _sums_of(self, x: str, places: int) -> tuple[str, int, int]:
        """Return sums of a map, in how many parts they come, and of how many places they are."""
        if x in self._sums:
            return (*self._sums[x], places)
        batch, channels = self._shape(x)[:2]
        source = self._value(x, channels_last=True)
        kernel = self._kernels.global_pool(GlobalPool(batch, places, channels, self._kernel_type))
        means = self._new_value(f"{x}.means", (batch, channels), self._kernel_type)
        self._append("global_pool", (), kernel.function, (source, means), means, 0, None)
        return means, 1, 1

    def _emit_pointwise(
        self,
        node: onnx.NodeProto,
        rows: int,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32],
        *,
        channels_last: bool,
    ) -> None:
        source, gates = self._gated_input(node.input[0])
        covered, shape, added = self._product_at(node, rows, weights)
        result = covered[-1].output[0]
        ends = result in self._outputs and not self._users.get(result)
        made = self._dtype(result) if ends and self._is_flat(result) else self._kernel_type
        images = self._shape(node.input[0])[0] if gates else 1
        product = Product(shape, images, bool(gates), made)
        kernel = self._gpu_kernels.product(product, weights, bias)
        x = self._value(source, channels_last=channels_last)
        self._emit_kernel(
            "pointwise", covered, kernel, (x, *gates), shape.madds, after=added, dtype=made
        )

    def _gated_input(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Return what a product reads, and the gates that it multiplies it by, if any."""
        if name in self._gated and name not in self._held:
            source, gates = self._gated[name]
            return source, (gates,)
        return name, ()

    def _make(self, name: str) -> None:
        """Add the value that a kernel writes for a tensor, channels last."""
        batch, *rest = self._shape(name)
        memory = (batch, *rest) if self._is_flat(name) else (batch, *rest[1:], rest[0])
        self._plan.values[name] = Value(memory, self._kernel_type)

    def _new_value(self, name: str, shape: tuple[int, ...], dtype: str = launch.SUM) -> str:
        new = self._new_name(name)
        self._plan.values[new] = Value(shape, dtype)
        return new

    # ---- a scaled map that something else than a product reads ----

    def _has(self, name: str, *, channels_last: bool) -> bool:
        if name in self._gated and name not in self._held:
            return channels_last or self._is_flat(name)
        return super()._has(name, channels_last=channels_last)

    def _held_type(self, name: str) -> str:
        if name in self._gated and name not in self._held:
            self._scale(name)
        return super()._held_type(name)

    def _scale(self, name: str) -> None:
        source, gates = self._gated[name]
        batch, channels, *sides = self._shape(name)
        shape = Elementwise(
            batch, prod(sides), channels, "multiply", True, LINEAR, self._kernel_type
        )
        kernel = self._gpu_kernels.scale(shape, self._plan.values[gates].dtype)
        x = self._value(source, channels_last=True)
        self._make(name)
        self._append("elementwise", (), kernel.function, (x, gates, name), name, 0, None)
        self._hold(name, name, channels_last=not self._is_flat(name))
