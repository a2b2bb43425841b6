"""What a partitioned graph is made of, as data.

The constants of a convolution are kept channel by channel, to find them in a command stream:
vela splits convolutions, changes the layout of kernels and pads them with zeros. But an output
channel stays a list of weights, a bias and a scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from mbv3c.feeds import Feed, only_array
from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.ethos_u.lowering.layout import on_device, to_device, to_model

# Weights that are not zero, as bytes of int16; bias; scale and shift, without common powers of 2.
Channel = tuple[bytes, int, int, int]


def channels_of(
    kernel: NDArray[Any],
    biases: Sequence[int] | NDArray[Any],
    scales: Sequence[int] | NDArray[Any],
    shifts: Sequence[int] | NDArray[Any],
) -> Iterator[Channel]:
    """Yield the output channels of a kernel O, H, W, I; each has a bias, a scale and a shift.

    A channel's sums become (sum + bias) * scale >> shift.
    """
    flat = kernel.reshape(len(kernel), -1).astype(np.int16)
    for weights, bias, scale, shift in zip(flat, biases, scales, shifts, strict=True):
        factor, by = int(scale), int(shift)
        zeros = min((factor & -factor).bit_length() - 1, by) if factor else 0
        yield weights[weights != 0].tobytes(), int(bias), factor >> zeros, by - zeros


@dataclass(frozen=True)
class Boundary:
    """An input or output of a region.

    Attributes:
        name: name in the ONNX model if it is the model's input or output, else the name of the
            node that makes it.
        shape: shape in the model, N, C, H, W or N, C, L or N, C; of an input that the model takes
            with its channels last, N, H, W, C or N, L, C.
        device_shape: shape on the device, N, H, W, C, of int8.
        quantization: what the tensor's integers stand for.
        made_by: the QuantizeLinear node of the quantized model that makes an output.
    """

    name: str
    shape: tuple[int, ...]
    device_shape: tuple[int, ...]
    quantization: Quantization
    made_by: str = ""

    @property
    def channels_last(self) -> bool:
        """Whether the model has its channels last, as the device has them."""
        return on_device(self.shape) != self.device_shape

    def to_device(self, x: Feed) -> NDArray[np.int8]:
        """Quantize an input to the int8 of N, H, W, C that the device takes."""
        integers = self.quantization.quantize(only_array(x))
        return integers.reshape(self.device_shape) if self.channels_last else to_device(integers)

    def to_model(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """Dequantize an output of the device and lay it out as the model does."""
        values = self.quantization.dequantize(q.reshape(self.device_shape))
        return to_model(values, self.shape)


@dataclass(frozen=True)
class Stay:
    """Why the CPU computes an operator, and what that costs in each inference.

    Attributes:
        why: the reason.
        change: what to change in the network.
        bytes_from_npu: int8 of the NPU that the operator reads.
        bytes_to_npu: its results that the NPU reads, as int8.
        parts_before: parts of the NPU whose results it reads.
        parts_behind: parts of the NPU that read its results.
        is_awaited: whether a part of the NPU needs what it makes, directly or not.
    """

    why: str
    change: str
    bytes_from_npu: int
    bytes_to_npu: int
    parts_before: int
    parts_behind: int
    is_awaited: bool


@dataclass(frozen=True)
class Operator:
    """Where an operator of the quantized graph is computed.

    Attributes:
        name: name of the ONNX node, the first of several.
        nodes: all ONNX nodes that the operator covers; none if it is only a step of a node.
        kind: the pattern that took the operator to the NPU; on the CPU the operator of ONNX, or of
            Relax for conversions and steps of a node.
        on_npu: whether the NPU computes the operator.
        stay: why the CPU does, and what that costs; None if the NPU computes it, and for
            conversions.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    on_npu: bool
    stay: Stay | None = None


@dataclass(frozen=True)
class SingleOperator:
    """An operator by itself, to compare it with that operator of the QDQ model.

    Attributes:
        name: name of the operator.
        tosa: TOSA file of this operator and nothing else.
        reads: the makers of its inputs: QuantizeLinear nodes, or the model's input.
        makes: the QuantizeLinear node of its result.
        allowed_lsb: largest allowed distance from the QDQ model on equal inputs, in steps.
    """

    name: str
    tosa: bytes
    reads: tuple[str, ...]
    makes: str
    allowed_lsb: int


@dataclass(frozen=True)
class Region:
    """A part of the graph that the NPU computes in one go.

    Attributes:
        symbol: name of the region in the partitioned module.
        tosa: the region as a TOSA 1.0 file.
        inputs, outputs: tensors at the ends, in the order of the TOSA graph.
        operators: the operators that the region computes.
        single_operators: each operator by itself.
        channels, tables: constants that the command stream must contain, with their layers.
        reads: the QuantizeLinear nodes that make the inputs.
    """

    symbol: str
    tosa: bytes
    inputs: tuple[Boundary, ...]
    outputs: tuple[Boundary, ...]
    operators: tuple[Operator, ...]
    single_operators: tuple[SingleOperator, ...]
    channels: Mapping[Channel, str]
    tables: Mapping[bytes, str]
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """A partitioned graph.

    Attributes:
        module: `main`, with a call for each region.
        regions: regions in the order of their calls.
        on_cpu: operators that stay on the CPU, without `ends`.
        awaited: those of them for which a region waits.
        ends: nodes that quantize the model's inputs or dequantize its outputs.
    """

    module: tvm.IRModule
    regions: tuple[Region, ...]
    on_cpu: tuple[Operator, ...]
    awaited: tuple[Operator, ...]
    ends: tuple[Operator, ...]
