"""Measure a quantized model against the fp32 one: outputs, tensors, and layers by themselves.

onnxruntime runs both without graph optimisations: it is the numbers of the graph that count here,
not those of an integer kernel that some runtime puts in its place.
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
class Alone:
    """The worst output of a model."""

    snr_db: float
    cosine: float


def worst_output(
    model: onnx.ModelProto,
    inputs: Sequence[Array],
    references: References,
) -> Alone:
    """Run a model and say how far its worst output is from the references."""
    opened = session(model)
    distances = [Distance() for _ in model.graph.output]
    for x, wanted in zip(inputs, references, strict=True):
        for distance, theirs, ours in zip(distances, wanted, run(opened, x), strict=True):
            distance.add(theirs.output, ours)
    return Alone(min(one.snr_db for one in distances), min(one.cosine for one in distances))


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
        ours = [one[index] for one in outputs]
        theirs = [one[index] for one in references]
        distance = Distance()
        for y, wanted in zip(ours, theirs, strict=True):
            distance.add(wanted.output, y)
        # The tolerance only says which pixels are a tie; there is no verdict here.
        verdict = compare(
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
                max(one["max_error_of_range"] for one in verdict["inputs"]),
                verdict["top1_agreement"],
                verdict["top5_agreement"],
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

    What no reader of a tensor tells apart, such as numbers below -3 before hard-swish, counts as
    equal.
    """
    tensors = quantized_tensors(quantized)
    names = list(tensors)
    back = [tensor.dequantized for tensor in tensors.values()]
    wanted, got = session(with_outputs(model, names)), session(with_outputs(quantized, back))
    seen = seen_bounds(model)
    whole = {name: Distance() for name in names}
    own = {name: Distance() for name in names}
    for x in inputs:
        pairs = zip(run_all(wanted, names, x), run_all(got, back, x), strict=True)
        for (name, theirs), (_, ours) in pairs:
            visible = np.clip(theirs, *seen[name])
            whole[name].add(visible, np.clip(ours, *seen[name]))
            own[name].add(visible, np.clip(tensors[name].apply(theirs), *seen[name]))
    makers: Mapping[str, str] = {name: part.name for part in parts for name in part.outputs}
    errors = [
        TensorError(
            name,
            makers.get(name, name),
            *tensors[name].bounds,
            whole[name].snr_db,
            whole[name].cosine,
            own[name].snr_db,
        )
        for name in names
    ]
    return tuple(sorted(errors, key=lambda error: error.own_snr_db))
