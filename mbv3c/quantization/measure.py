"""Measure a quantized model against the fp32 one: outputs, tensors, and layers by themselves.

onnxruntime runs both without graph optimisations, so that the graph itself is measured, and not
the integer kernels that some runtime puts in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.parity.compare import compare
from mbv3c.parity.reference import ReferenceOutput, run, session
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.quantization.errors import Distance
from mbv3c.quantization.layers import Layer
from mbv3c.quantization.qdq import quantized_tensors
from mbv3c.quantization.ranges import run_all, seen_bounds, with_outputs
from mbv3c.quantization.report import OutputError, TensorError

Array = NDArray[np.float32]
References = Sequence[Sequence[ReferenceOutput]]


@dataclass(frozen=True)
class WorstOutput:
    """The largest errors of any output of a model; the two may be those of different outputs."""

    snr_db: float
    cosine: float


def worst_output(
    model: onnx.ModelProto,
    inputs: Sequence[Array],
    references: References,
) -> WorstOutput:
    """Run a model and return how far its worst output is from the references."""
    opened = session(model)
    distances = [Distance() for _ in model.graph.output]
    for x, wanted in zip(inputs, references, strict=True):
        for distance, theirs, ours in zip(distances, wanted, run(opened, x), strict=True):
            distance.add(theirs.output, ours)
    pairs = [(distance.snr_db, distance.cosine) for distance in distances]
    return WorstOutput(*map(min, zip(*pairs, strict=True)))


def output_errors(
    model: onnx.ModelProto,
    inputs: Sequence[Array],
    references: References,
) -> tuple[OutputError, ...]:
    """Run a model and compare every output with the references."""
    opened = session(model)
    outputs = [run(opened, x) for x in inputs]
    errors = []
    for index, output in enumerate(model.graph.output):
        ours = [row[index] for row in outputs]
        theirs = [row[index] for row in references]
        distance = Distance()
        for y, wanted in zip(ours, theirs, strict=True):
            distance.add(wanted.output, y)
        # The tolerance only says which pixels are a tie; nothing passes or fails here.
        comparison = compare(
            [[y] for y in ours],
            [[wanted] for wanted in theirs],
            TOLERANCES["fp32"],
            ran_on="onnxruntime",
            exact_program=True,
        ).to_json()
        errors.append(
            OutputError(
                output.name,
                distance.snr_db,
                distance.cosine,
                max(row["max_error_of_range"] for row in comparison["inputs"]),
                comparison["top1_agreement"],
                comparison["top5_agreement"],
            )
        )
    return tuple(errors)


def tensor_errors(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Sequence[Array],
    parts: Sequence[Layer],
) -> tuple[TensorError, ...]:
    """Compare every quantized tensor with that of the fp32 graph; the largest own error first.

    Values that no reader of a tensor tells apart, such as those below -3 before hard-swish, count
    as equal.
    """
    tensors = quantized_tensors(quantized)
    names = list(tensors)
    back = [tensor.dequantized for tensor in tensors.values()]
    wanted, got = session(with_outputs(model, names)), session(with_outputs(quantized, back))
    bounds = seen_bounds(model)
    overall = {name: Distance() for name in names}
    own = {name: Distance() for name in names}
    for x in inputs:
        pairs = zip(run_all(wanted, names, x), run_all(got, back, x), strict=True)
        for (name, theirs), (_, ours) in pairs:
            visible = np.clip(theirs, *bounds[name])
            overall[name].add(visible, np.clip(ours, *bounds[name]))
            own[name].add(visible, np.clip(tensors[name].apply(theirs), *bounds[name]))
    makers: Mapping[str, str] = {name: part.name for part in parts for name in part.outputs}
    errors = [
        TensorError(
            name,
            makers.get(name, name),
            *tensors[name].bounds,
            overall[name].snr_db,
            overall[name].cosine,
            own[name].snr_db,
        )
        for name in names
    ]
    return tuple(sorted(errors, key=lambda error: error.own_snr_db))
