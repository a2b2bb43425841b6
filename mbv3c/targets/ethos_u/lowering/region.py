"""What a partitioned graph is made of, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.lowering.channels import Channel
from mbv3c.targets.ethos_u.lowering.composite import Quantization


@dataclass(frozen=True)
class Boundary:
    """A tensor that goes into a region or comes out of it.

    Attributes:
        name: in the ONNX model where it is one of the model's own, else of the node that makes it.
        shape: in the model, N, C, H, W or N, C.
        device_shape: on the device, N, H, W, C; int8.
        quantization: what its integers stand for.
        made_by: of an output, the QuantizeLinear node that makes it in the quantized model.
    """

    name: str
    shape: tuple[int, ...]
    device_shape: tuple[int, ...]
    quantization: Quantization
    made_by: str = ""

    def to_device(self, x: NDArray[np.float32]) -> NDArray[np.int8]:
        """Quantize an input of N, C, H, W to the int8 of N, H, W, C that the device takes."""
        return np.ascontiguousarray(self.quantization.integers(x).transpose(0, 2, 3, 1))

    def to_model(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """Dequantize an output of the device to what the model gives."""
        values = self.quantization.values(q.reshape(self.device_shape))
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2).reshape(self.shape))


@dataclass(frozen=True)
class Operator:
    """Where an operator of the quantized graph is computed.

    Attributes:
        name: of the ONNX node, the first of several.
        nodes: all ONNX nodes that it covers; none if it is only a step of one.
        kind: the pattern that took it to the NPU, or the operator that stays on the CPU: ONNX's,
            or Relax's of what converts and of what is only a step.
        on_npu: whether the NPU computes it.
        why: why it does not.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    on_npu: bool
    why: str = ""


@dataclass(frozen=True)
class Alone:
    """An operator by itself, to compare it with the same one of the QDQ model.

    Attributes:
        name: of the operator.
        tosa: a TOSA file of nothing else.
        reads: what makes its inputs: the QuantizeLinear node, or the model's input.
        makes: the QuantizeLinear node of its result.
        allowed_lsb: how far from the QDQ model it may be, given the same integers.
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
        symbol: its name in the partitioned module.
        tosa: the same as a TOSA 1.0 file.
        inputs, outputs: in the order of the TOSA graph's.
        operators: what it computes.
        alone: each of them by itself.
        channels, tables: constants that the NPU has to have, and whose they are.
    """

    symbol: str
    tosa: bytes
    inputs: tuple[Boundary, ...]
    outputs: tuple[Boundary, ...]
    operators: tuple[Operator, ...]
    alone: tuple[Alone, ...]
    channels: Mapping[Channel, str]
    tables: Mapping[bytes, str]


@dataclass(frozen=True)
class Partition:
    """A partitioned graph.

    Attributes:
        module: `main`, with a call for each region.
        regions: in the order of their calls.
        on_cpu: what stays, but for what follows.
        awaited: those of them that a region waits for.
        ends: the nodes that quantize the model's inputs or dequantize its outputs.
    """

    module: tvm.IRModule
    regions: tuple[Region, ...]
    on_cpu: tuple[Operator, ...]
    awaited: tuple[Operator, ...]
    ends: tuple[Operator, ...]
