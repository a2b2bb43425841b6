"""What half precision does to a model by itself, where every operation is computed in fp32.

    x → Conv(w) → y   ⇒   x → Conv(w as fp16) → y' → Cast fp16 → Cast fp32 → y

What nothing but storing in fp16 moves an output by, no kernel can keep. And a sum of products that
cancel each other rounds at the size of its parts, however small it is itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mbv3c.feeds import Feed
from mbv3c.graphs.count import WEIGHTED, computed_types
from mbv3c.parity.reference import ReferenceOutput, error_of_range, run, session
from mbv3c.parity.scales import is_score

_TIMES_STORING = 4.0  # as `Tolerance.times_spread`; sums in fp16 move PP-OCR's reader v4 by 3.6
_MOST = 0.1  # of the range, whatever storing does
# What rounding a score of 1 moves it by. Where all scores are far below that, as of text in noise,
# their range is small, and what a logit of -9 loses in fp16 is some per cent of each.
_LAST_BIT_OF_ONE = 2.0**-12
# Each of 96 sums in a row is rounded by at most 2^-12 of itself: by 1.4e-3 of their size in all
# (one standard deviation). Sums of both signs have half the size of those of magnitudes, and of
# 100,000 outputs the worst lies at 4.4 deviations.
_OF_MAGNITUDES = 3e-3
# What is one number everywhere is off by half of the range, and must not pass.
_MOST_OF_SUMS = 0.4


def stored_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that keeps weights and computed tensors in fp16, but for its outputs."""
    inferred = shape_inference.infer_shapes(model)
    graph = inferred.graph
    types = computed_types(graph)
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            halves = _halves(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(halves, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT and name not in outputs:
                node.output[index] = before = f"{name}.in_fp32"
                half = f"{name}.in_fp16"
                nodes.append(helper.make_node("Cast", [before], [half], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return inferred


def _halves(values: NDArray[np.float32]) -> NDArray[np.float32]:
    most = float(np.finfo(np.float16).max)
    return np.clip(values, -most, most).astype(np.float16).astype(np.float32)


def with_storing(
    model: onnx.ModelProto, inputs: Sequence[Feed], references: Sequence[Sequence[ReferenceOutput]]
) -> list[list[ReferenceOutput]]:
    """Return references that allow some times what storing in fp16 does to each input's outputs.

    `model` is what was lowered, in fp32; its outputs are those of the references.
    """
    opened = session(stored_in_half(model))
    judged = []
    for x, outputs in zip(inputs, references, strict=True):
        row = []
        for reference, y in zip(outputs, run(opened, x), strict=True):
            moved = 0.0
            if reference.answers is None:
                moved = error_of_range(np.asarray(y), reference.output, reference.scale)
            allowed = min(_MOST, _TIMES_STORING * moved) if np.isfinite(moved) else 0.0
            if reference.scale is not None and is_score(model, reference.name):
                last = _LAST_BIT_OF_ONE / float(np.max(reference.scale))
                allowed = max(allowed, min(_MOST, last))
            row.append(replace(reference, rounding=max(reference.rounding, allowed)))
        judged.append(row)
    return judged


def rounding_of_sums(
    nodes: Sequence[onnx.NodeProto],
    stored: Mapping[str, onnx.TensorProto],
    tensors: Mapping[str, NDArray[Any]],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> float:
    """Return how far sums in fp16 may be off, by the magnitudes that are added up.

    Args:
        nodes: what a kernel computes.
        stored: constants of the model, by name.
        tensors: the tensors that enter the kernel, by name.
        opsets: the operator sets of the model.
    """
    largest = 0.0
    for node in nodes:
        constants = [name for name in node.input[1:] if name]
        x = tensors.get(node.input[0]) if node.op_type in WEIGHTED else None
        if x is None or any(name not in stored for name in constants):
            continue
        values = {name: np.abs(numpy_helper.to_array(stored[name])) for name in constants}
        given = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, x.shape)
        result = onnx.ValueInfoProto(name=node.output[0])
        weights = [numpy_helper.from_array(array, name) for name, array in values.items()]
        graph = helper.make_graph([node], "magnitudes", [given], [result], weights)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        (sums,) = run(session(model), np.abs(x).astype(np.float32))
        largest = max(largest, _OF_MAGNITUDES * float(np.max(sums, initial=0.0)))
    return largest


def share_of_range(rounding: float, right: NDArray[np.float64]) -> float:
    """Return how far sums may be off as a fraction of the range, which is never most of it."""
    return min(_MOST_OF_SUMS, rounding / float(np.ptp(right)))
