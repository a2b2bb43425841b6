"""onnxruntime as the reference."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.graphs.load import model_input
from mbv3c.graphs.outputs import class_axes

OPTIMIZED = (
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
_FATAL_ONLY = 4  # severity: messages about unused initialisers are not for our users


@dataclass(frozen=True)
class ReferenceOutput:
    """One output that onnxruntime computes for one input.

    Attributes:
        name: of the output.
        output: its values, without any graph optimisation.
        spread: largest absolute difference between that and onnxruntime's optimised results, as
            a fraction of the output's range: what rounding alone does to this model.
        step: of a quantized output, as a fraction of its range; None for another.
        class_axis: which axis of `output` has the classes; None if it holds no class scores.
    """

    name: str
    output: NDArray[np.float32]
    spread: float
    class_axis: int | None
    step: float | None = None


def run_reference(
    model: onnx.ModelProto, inputs: list[NDArray[np.float32]]
) -> Iterator[list[ReferenceOutput]]:
    """Run the model as it is, and with onnxruntime's own optimisations beside it.

    Yields:
        For each input what the model's outputs are, in their order.
    """
    plain = session(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    optimized = [session(model, level) for level in OPTIMIZED]
    for x in inputs:
        outputs = run(plain, x)
        others = zip(*(run(other, x) for other in optimized), strict=True)
        spreads = [
            max(error_of_range(y, output) for y in ys)
            for output, ys in zip(outputs, others, strict=True)
        ]
        axes = class_axes(model, [output.shape for output in outputs])
        names = [output.name for output in model.graph.output]
        steps = [_step(model, name, output) for name, output in zip(names, outputs, strict=True)]
        yield list(map(ReferenceOutput, names, outputs, spreads, axes, steps))


def _step(model: onnx.ModelProto, name: str, output: NDArray[np.float32]) -> float | None:
    """Return one step of an output that a DequantizeLinear makes, over its range."""
    made = next((node for node in model.graph.node if name in node.output), None)
    spread = float(np.ptp(output.astype(np.float64)))
    if made is None or made.op_type != "DequantizeLinear" or not spread > 0:
        return None
    scales = [one for one in model.graph.initializer if one.name == made.input[1]]
    return float(numpy_helper.to_array(scales[0]).max()) / spread if scales else None


def session(
    model: onnx.ModelProto,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
) -> ort.InferenceSession:
    """Open a model with one input.

    Raises:
        ModelError: it has another number of inputs, or onnxruntime cannot load it.
    """
    model_input(model)
    return open_session(model, level)


def open_session(
    model: onnx.ModelProto,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
) -> ort.InferenceSession:
    """Open any model on one thread, so that sums do not depend on the number of cores.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise ModelError(f"onnxruntime cannot load the model: {error}") from error


def run(opened: ort.InferenceSession, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Run one input through an opened model and return its outputs in their order."""
    outputs = opened.run(None, {opened.get_inputs()[0].name: x})
    return [np.asarray(output) for output in outputs]


def tensors_of(
    model: onnx.ModelProto, x: NDArray[np.float32], names: Container[str]
) -> dict[str, NDArray[Any]]:
    """Return tensors of a model by name, as onnxruntime computes them without optimisations.

    The model's input may be among them; names that the model has not are left out.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    given = model_input(model).name
    wanted = [name for node in model.graph.node for name in node.output if name in names]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    found = {given: x} if given in names else {}
    return found | dict(zip(wanted, run(session(shown), x), strict=True)) if wanted else found


def error_of_range(y: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the largest absolute error as a fraction of the reference's range.

    Infinite if shapes differ or either holds NaN or infinity: that is never parity.
    """
    if y.shape != reference.shape:
        return float("inf")
    if not (np.isfinite(y).all() and np.isfinite(reference).all()):
        return float("inf")
    error = float(np.abs(y.astype(np.float64) - reference).max())
    spread = float(np.ptp(reference.astype(np.float64)))
    if error == 0.0:
        return 0.0
    return error / spread if spread > 0 else float("inf")
