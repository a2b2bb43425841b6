"""What stays on the CPU behind an NPU: is it the rest of the model, and where does it lead."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mbv3c.parity.compare import agreement
from mbv3c.parity.reference import ReferenceOutput, error_of_range
from mbv3c.targets.ethos_u.host import run_host
from mbv3c.targets.ethos_u.lowering.host import host_part
from mbv3c.targets.ethos_u.lowering.region import Region

# Outputs of a model, and the integers before its part on the CPU, in the order of the device.
Both = tuple[list[NDArray[np.float32]], list[NDArray[Any]]]


@dataclass(frozen=True)
class HostParity:
    """What the part on the CPU has shown.

    Attributes:
        same: whether it is, byte by byte, what the QDQ model leaves to the CPU.
        max_error_of_range: of its outputs, given the integers of the QDQ model in onnxruntime,
            against those of that model.
        cosine: of its outputs, given TOSA's integers, against those of the model as given; 0 if
            they are not finite.
    """

    same: bool
    max_error_of_range: float
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields; a value that is not finite becomes null."""
        return {
            name: value if np.isfinite(value) else None for name, value in asdict(self).items()
        }


def check_host(
    quantized: onnx.ModelProto,
    region: Region,
    host: onnx.ModelProto,
    ours: list[Both],
    tosa: list[list[NDArray[Any]]],
    references: list[list[ReferenceOutput]],
) -> HostParity:
    """Run the part on the CPU behind the QDQ model and behind TOSA.

    Args:
        quantized: with QDQ pairs.
        region: what the NPU computes.
        host: the part, as the bundle has it.
        ours: of the QDQ model, input by input.
        tosa: the integers that TOSA gives, input by input.
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
    """Return a copy that also gives what some QuantizeLinear nodes make, behind its outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    made = {node.name: node.output[0] for node in model.graph.node}
    for name in names:
        shown = helper.make_tensor_value_info(made[name], TensorProto.INT8, None)
        model.graph.output.append(shown)
    return model
