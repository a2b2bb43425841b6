"""What runs, in which order, on which memory: the network as a list of kernels.

Images are NHWC from the stem to the last kernel of the family. What the fallback reads and writes
is laid out as in ONNX. A tensor that is needed in both layouts lies in two values.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.schedules.emit import Activation
from mbv3c.lowering.schedules.windows import Axis, products


@dataclass(frozen=True)
class Convolution:
    """The shape of a dense convolution.

    Attributes:
        channels_first: whether the input is NCHW.
        source: element type of the input; the kernel converts it to `dtype` as it reads.
    """

    batch: int
    inputs: int
    outputs: int
    vertical: Axis
    horizontal: Axis
    activation: Activation
    channels_first: bool
    dtype: str = "float32"
    source: str = "float32"

    @property
    def madds(self) -> int:
        return self.batch * self.outputs * self.inputs * products(self.vertical, self.horizontal)


@dataclass(frozen=True)
class Depthwise:
    """The shape of a depthwise convolution."""

    batch: int
    channels: int
    vertical: Axis
    horizontal: Axis
    activation: Activation
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return self.batch * self.channels * products(self.vertical, self.horizontal)


def pack_depthwise(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [C, 1, R, S] as [R, S, C]."""
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))


@dataclass(frozen=True)
class Elementwise:
    """y = activation(a ∘ b), or activation(a).

    Attributes:
        operator: "add", "multiply", or "" for one operand.
        per_channel: whether b is [B, C] beside a's [B, P, C], as the gates of SE are.
        result: element type of y; empty for the type of a and b.
    """

    batch: int
    places: int
    channels: int
    operator: str
    per_channel: bool
    activation: Activation
    dtype: str = "float32"
    result: str = ""

    @property
    def madds(self) -> int:
        return 0


@dataclass(frozen=True)
class Transpose:
    """x [B, rows, columns] to y [B, columns, rows]: NCHW to NHWC, and back.

    Attributes:
        result: element type of y; empty for the type of x.
    """

    batch: int
    rows: int
    columns: int
    dtype: str = "float32"
    result: str = ""

    @property
    def madds(self) -> int:
        return 0


@dataclass(frozen=True)
class Pointwise:
    """The shape of a pointwise convolution or of a fully connected layer."""

    rows: int
    inputs: int
    outputs: int
    activation: Activation
    residual: bool = False
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class GlobalPool:
    """The shape of a global average pool."""

    batch: int
    places: int
    channels: int
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return 0


Array = NDArray[Any]

# Where the choices of a kernel come from: a rule, a measurement of a kernel of the same shape, or
# a measurement of a kernel of similar sizes.
DEFAULT, TUNED, TRANSFERRED = "default", "tuned", "transferred"
ORIGINS = (DEFAULT, TUNED, TRANSFERRED)


@dataclass(frozen=True)
class Value:
    """A tensor of the network.

    Attributes:
        shape: extents in memory.
        dtype: element type.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Step:
    """One call of one kernel.

    Attributes:
        kind: name of the module of `schedules` that wrote the kernel, or "fallback".
        nodes: names of the ONNX nodes that the kernel computes.
        function: the kernel.
        arguments: names of values and constants, in the order of the kernel's parameters.
        writes: the values among the arguments that the kernel writes.
        madds: multiply-adds of the call.
        knobs: the kernel's choices by name.
        shape: the shape that the kernel was written for, a dataclass; None if the kernel has no
            knobs.
        origin: source of the choices, one of `ORIGINS`; empty if the kernel has no knobs.
        operator: name of TVM's operator; empty for a kernel of ours.
        warning: why what was measured was not used; empty for nothing to say.
    """

    kind: str
    nodes: tuple[str, ...]
    function: PrimFunc
    arguments: tuple[str | Array, ...]
    writes: tuple[str, ...]
    madds: int = 0
    knobs: dict[str, int | bool | str] = field(default_factory=dict)
    shape: Any = None
    origin: str = ""
    operator: str = ""
    warning: str = ""

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(argument for argument in self.arguments if isinstance(argument, str))

    @property
    def constants(self) -> dict[int, Array]:
        """The constants by their position among the arguments, as they lie in a library."""
        pairs = zip(self.function.params, self.arguments, strict=True)
        return {
            place: np.ascontiguousarray(argument)
            .reshape(tuple(int(extent) for extent in parameter.shape))
            .astype(str(parameter.dtype), copy=False)
            for place, (parameter, argument) in enumerate(pairs)
            if not isinstance(argument, str)
        }

    @property
    def constant_bytes(self) -> int:
        return sum(a.nbytes for a in self.arguments if not isinstance(a, str))


@dataclass(frozen=True)
class HeldTensor:
    """A tensor of the ONNX graph, as a value holds it.

    Attributes:
        tensor: name of the tensor.
        channels_last: whether an image is NHWC; channels that are 0 may follow those of the image.
    """

    tensor: str
    channels_last: bool


@dataclass(frozen=True)
class Argument:
    """What a value that a step is called with holds.

    Attributes:
        value: name of the value.
        reads: the tensor in the value before the call; None if the kernel does not read it, or if
            it is no tensor of the graph.
        writes: the tensor in the value after the call; None if the kernel does not write it, or if
            it is no tensor of the graph.
    """

    value: str
    reads: HeldTensor | None
    writes: HeldTensor | None


@dataclass
class Plan:
    """The network as kernels.

    Attributes:
        inputs, outputs: names of the values that enter and leave.
        input_shapes, output_shapes: shapes that the ONNX graph declares.
        values: every value by name.
        steps: the calls of kernels, in the order in which they run.
        held: the number of steps after which a value holds a tensor, the value and the tensor.
    """

    inputs: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    held: list[tuple[int, str, HeldTensor]] = field(default_factory=list)

    def hold(self, tensor: str, value: str, *, channels_last: bool) -> None:
        """Note that a value holds a tensor of the graph after the steps so far."""
        self.held.append((len(self.steps), value, HeldTensor(tensor, channels_last)))

    def arguments(self) -> list[tuple[Argument | None, ...]]:
        """Return for every step what its arguments hold; None for a constant."""
        writers: dict[str, int] = {}  # the step that wrote a value last
        holdings: dict[tuple[str, int], HeldTensor] = {}
        rows = []
        for at, step in enumerate(self.steps):
            self._add_holdings(at, writers, holdings)
            read = {name: writers.get(name, -1) for name in step.values}
            fresh = set(step.writes) - writers.keys() - {*self.inputs}
            writers.update(dict.fromkeys(step.writes, at))
            rows.append((step, read, fresh, at))
        self._add_holdings(len(self.steps), writers, holdings)
        return [
            tuple(
                Argument(
                    name,
                    None if name in fresh else holdings.get((name, read[name])),
                    holdings.get((name, at)) if name in step.writes else None,
                )
                if isinstance(name, str)
                else None
                for name in step.arguments
            )
            for step, read, fresh, at in rows
        ]

    def _add_holdings(
        self, steps: int, writers: dict[str, int], holdings: dict[tuple[str, int], HeldTensor]
    ) -> None:
        for after, value, held in self.held:
            if after == steps:
                holdings.setdefault((value, writers.get(value, -1)), held)

    def bytes_moved(self, step: Step) -> int:
        """Return the bytes of all tensors that a step reads or writes, each counted once."""
        return step.constant_bytes + sum(self.values[name].bytes for name in set(step.values))


Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """A kernel with the choices that were made for it.

    Attributes:
        function: the kernel.
        constants: the arguments after the first input: weights, packed as the kernel reads them.
        knobs: the choices, a dataclass; None if the kernel has no knobs.
        shape: the shape that the kernel was written for, a dataclass; None without knobs.
        origin: source of the choices, one of `ORIGINS`; empty without knobs.
        warning: why what was measured was not used; empty for nothing to say.
    """

    function: PrimFunc
    constants: tuple[Array, ...] = ()
    knobs: Any = None
    shape: Any = None
    origin: str = ""
    warning: str = ""


class Kernels(Protocol):
    """Writes kernels for a kind of processor; weights are as in ONNX, those of products [N, K].

    `schedule` and `operator` take what TVM wrote for an operator that no other method covers: the
    one by rules alone, the other as it was measured to be best, if contests could measure it.
    """

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel: ...
    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel: ...
    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel: ...
    def global_pool(self, shape: GlobalPool) -> Kernel: ...
    def elementwise(self, shape: Elementwise) -> Kernel: ...
    def transpose(self, shape: Transpose) -> Kernel: ...
    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc: ...
    def operator(
        self,
        function: PrimFunc,
        target: tvm.target.Target,
        tunable: bool,
    ) -> Kernel: ...


class Choices(Protocol):
    """Knows which choices were measured to be best."""

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the best knobs of a kernel of a kind and a shape; None if it was not measured."""

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        """Return the best knobs of a similar kernel; None if no similar kernel was measured."""
        return None

    def kept(self, weights: Array) -> dict[str, Any]:
        """Return the knobs by which another program has packed some weights; none by default."""
        return {}

    def note(self, weights: Array, knobs: dict[str, Any]) -> None:
        """Take note of the knobs by which some weights are packed; nothing does by default."""
        return


class NoChoices(Choices):
    """Nothing was measured."""

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return None


NO_CHOICES = NoChoices()
