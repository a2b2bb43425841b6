"""Check the part on the CPU behind an NPU: whether it is, and computes, the rest of the model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mbv3c.parity.compare import agreement
from mbv3c.parity.metrics import finite
from mbv3c.parity.reference import ReferenceOutput, error_of_range, session
from mbv3c.targets.ethos_u.lowering.host import host_part
from mbv3c.targets.ethos_u.lowering.region import Boundary, Region


def run_host(host: onnx.ModelProto, integers: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """Run the CPU's part on the outputs of the device, in the device's order and layout."""
    opened = session(host)
    named = {
        tensor.name: np.ascontiguousarray(values.reshape(tensor.shape).astype(np.int8))
        for tensor, values in zip(opened.get_inputs(), integers, strict=True)
    }
    return [np.asarray(output) for output in opened.run(None, named)]


def to_model(
    host: onnx.ModelProto | None, ends: Sequence[Boundary], integers: Sequence[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """Return a model's outputs for what the NPU gives, through the CPU's part if there is one."""
    if host is not None:
        return run_host(host, integers)
    return [end.to_model(y) for end, y in zip(ends, integers, strict=True)]


# Outputs of a model, and the integers before the CPU's part, in the order of the device.
OutputsAndIntegers = tuple[list[NDArray[np.float32]], list[NDArray[Any]]]


@dataclass(frozen=True)
class HostParity:
    """What the checks of the CPU's part have shown.

    Attributes:
        same: whether the part equals, byte by byte, what the QDQ model leaves to the CPU.
        max_error_of_range: largest error of the outputs against those of the QDQ model, on the
            integers of the QDQ model in onnxruntime.
        cosine: cosine of the outputs on TOSA's integers with the outputs of the model as given; 0
            if they are not finite.
    """

    same: bool
    max_error_of_range: float
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields; null for a value that is not finite."""
        document: dict[str, Any] = finite(asdict(self))
        return document


def check_host(
    quantized: onnx.ModelProto,
    region: Region,
    host: onnx.ModelProto,
    ours: list[OutputsAndIntegers],
    tosa: list[list[NDArray[Any]]],
    references: list[list[ReferenceOutput]],
) -> HostParity:
    """Run the part on the CPU behind the QDQ model and behind TOSA.

    Args:
        quantized: model with QDQ pairs.
        region: the region that the NPU computes.
        host: the CPU's part, as the bundle has it.
        ours: outputs and integers of the QDQ model, input by input.
        tosa: integers that TOSA gives, input by input.
        references: outputs of the model as given, input by input.
    """
    same = host_part(quantized, region.outputs).SerializeToString(deterministic=True)
    errors = [
        error_of_range(*pair)
        for outputs, integers in ours
        for pair in zip(run_host(host, integers), outputs, strict=True)
    ]
    ends = [run_host(host, integers) for integers in tosa]
    finite = all(np.isfinite(y).all() for outputs in ends for y in outputs)
    return HostParity(
        same == host.SerializeToString(deterministic=True),
        max(errors),
        agreement(ends, references).cosine if finite else 0.0,
    )


def with_integers(quantized: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return a copy with more outputs at the end: the results of some QuantizeLinear nodes."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    made = {node.name: node.output[0] for node in model.graph.node}
    for name in names:
        shown = helper.make_tensor_value_info(made[name], TensorProto.INT8, None)
        model.graph.output.append(shown)
    return model
