"""onnxruntime as the reference, and the inputs on which parity is checked."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import GraphOptimizationLevel as Level

from mbv3c.errors import ModelError
from mbv3c.graphs.load import model_input
from mbv3c.graphs.outputs import class_axes
from mbv3c.parity.metrics import over_range

# Standard deviations. Normalised images have about 1; the others reach the flat, the curved and
# the linear parts of hard-swish and hard-sigmoid.
SCALES = (1.0, 0.25, 0.5, 1.5, 2.0)


def parity_inputs(shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Return one seeded input per scale; the first is the golden input of a bundle.

    Half of each input's variance is white noise and half is one offset per image and channel, so
    that both texture and flat areas count. `shape` is the model's input shape, batch first.
    """
    rng = np.random.default_rng(20190506)
    flat = (*shape[:2], *(1 for _ in shape[2:]))
    return [
        (scale * (rng.standard_normal(shape) + rng.standard_normal(flat)) / np.sqrt(2)).astype(
            np.float32
        )
        for scale in SCALES
    ]


PLAIN, OPTIMIZED = Level.ORT_DISABLE_ALL, (Level.ORT_ENABLE_BASIC, Level.ORT_ENABLE_ALL)
_FATAL_ONLY = 4  # severity: messages about unused initialisers are not for our users


@dataclass(frozen=True)
class ReferenceOutput:
    """One output that onnxruntime computes for one input.

    Attributes:
        name: name of the output.
        output: values of the output, computed without graph optimisations.
        spread: largest absolute difference between `output` and onnxruntime's optimised results,
            as a fraction of the output's range: the effect of rounding alone on this model.
        class_axis: axis of the classes in `output`; None if it holds no class scores.
        step: one step of a quantized output, as a fraction of the output's range; else None.
    """

    name: str
    output: NDArray[np.float32]
    spread: float
    class_axis: int | None
    step: float | None = None


def run_reference(
    model: onnx.ModelProto, inputs: list[NDArray[np.float32]]
) -> Iterator[list[ReferenceOutput]]:
    """Run the model as it is, and also with onnxruntime's own optimisations.

    Yields:
        The model's outputs in graph order, for one input after the other.
    """
    plain = session(model)
    optimized = [session(model, level) for level in OPTIMIZED]
    for x in inputs:
        outputs = run(plain, x)
        variants = zip(*(run(opened, x) for opened in optimized), strict=True)
        spreads = [
            max(error_of_range(y, output) for y in ys)
            for output, ys in zip(outputs, variants, strict=True)
        ]
        axes = class_axes(model, [output.shape for output in outputs])
        names = [output.name for output in model.graph.output]
        steps = [_step(model, name, output) for name, output in zip(names, outputs, strict=True)]
        yield list(map(ReferenceOutput, names, outputs, spreads, axes, steps))


def _step(model: onnx.ModelProto, name: str, output: NDArray[np.float32]) -> float | None:
    """Return one step of an output that a DequantizeLinear makes, over the output's range."""
    maker = next((node for node in model.graph.node if name in node.output), None)
    spread = float(np.ptp(output.astype(np.float64)))
    if maker is None or maker.op_type != "DequantizeLinear" or not spread > 0:
        return None
    scales = [tensor for tensor in model.graph.initializer if tensor.name == maker.input[1]]
    return float(numpy_helper.to_array(scales[0]).max()) / spread if scales else None


def session(model: onnx.ModelProto, level: Level = PLAIN) -> ort.InferenceSession:
    """Open a model with one input.

    Raises:
        ModelError: the model has another number of inputs, or onnxruntime cannot load it.
    """
    model_input(model)
    return open_session(model, level)


def open_session(model: onnx.ModelProto, level: Level = PLAIN) -> ort.InferenceSession:
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

    The model's input may be among the names; unknown names are left out.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = [name for node in model.graph.node for name in node.output if name in names]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    input_name = model_input(model).name
    tensors = {input_name: x} if input_name in names else {}
    return tensors | dict(zip(wanted, run(session(copy), x), strict=True)) if wanted else tensors


def error_of_range(y: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the largest absolute error as a fraction of the reference's range.

    Infinite if the shapes differ, or if one side holds NaN or infinity: that is never parity.
    """
    if y.shape != reference.shape or not (np.isfinite(y).all() and np.isfinite(reference).all()):
        return float("inf")
    error = float(np.abs(y.astype(np.float64) - reference).max())
    return over_range(error, float(np.ptp(reference.astype(np.float64))))
