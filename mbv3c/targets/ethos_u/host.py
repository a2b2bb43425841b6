"""Run what stays on the CPU behind an NPU, in onnxruntime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

_FATAL_ONLY = 4  # severity


def run_host(host: onnx.ModelProto, integers: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """Run the CPU's part on the outputs of the device, in the device's order and layout."""
    options = ort.SessionOptions()
    # As the reference does: no optimisation, and sums that do not depend on the number of cores.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    opened = ort.InferenceSession(
        host.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    named = {
        tensor.name: np.ascontiguousarray(values.reshape(tensor.shape).astype(np.int8))
        for tensor, values in zip(opened.get_inputs(), integers, strict=True)
    }
    return [np.asarray(output) for output in opened.run(None, named)]
