"""Mend what a quantizer left between its pairs, so that integers can compute it.

    Q(x, s, z) → DQ → a;  Q(x, s, z) → DQ → b           ⇒   Q(x, s, z) → {DQ → a, DQ → b}
    Conv(x, DQ(w, s), b) → BatchNormalization           ⇒   Conv(x, DQ(w, s · k), b′)
    Conv(x, DQ(w, s), b) → Div(stored) → BatchNormalization   ⇒   the same, divided
    x · HardSigmoid(x), x · relu6(x + 3) / 6             ⇒   HardSwish(x)

k is scale / sqrt(variance + epsilon), and what is below 0 of it turns the signs of the integers.
The integers stay as they are, so the rewrites change no more than the last bits of fp32. Source:
Jacob et al., arXiv:1712.05877, section 3.2.
"""

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.passes.fuse_hardswish import FuseHardSwish
from mbv3c.passes.names import FreeNames, inner_reads
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS, OLDEST_WITH_HARDSWISH, opset_of

_RANK = 4  # of an image
_EPSILON = 1e-5  # of a BatchNormalization that says none
Stored = dict[str, NDArray[Any]]


def has_mends(model: onnx.ModelProto) -> bool:
    """Say whether a model with pairs may have something that changes last bits when mended."""
    operators = {node.op_type for node in model.graph.node}
    if "DequantizeLinear" not in operators:
        return False
    return "BatchNormalization" in operators or _has_spelled_swish(model)


def mended(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return a model with pairs, mended, and the names of the nodes that were written anew.

    The given model is left as it is.
    """
    names: list[str] = []
    if _has_spelled_swish(model):
        fused, report = FuseHardSwish()(_with_hardswish(model))
        model = fused if report.matched else model
        names += report.matched
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shared = _share_pairs(copy.graph)
    folded = _fold_normalizations(copy.graph)
    return (copy if shared or folded else model), [*names, *shared, *folded]


def _with_hardswish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of opset 13, as torch writes quantized ones, as one of 14.

    Of what may stand in a model for inference, 14 only allows more. Source: ONNX, Changelog.md.
    """
    normalizations = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    trained = any(len(node.output) > 1 for node in normalizations)
    if opset_of(model) != OLDEST_WITH_HARDSWISH - 1 or trained:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for opset in copy.opset_import:
        if opset.domain in DEFAULT_DOMAINS:
            opset.version = OLDEST_WITH_HARDSWISH
    return copy


def _has_spelled_swish(model: onnx.ModelProto) -> bool:
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for x, gate in (node.input, node.input[::-1]) if node.op_type == "Mul" else ():
            maker = makers.get(gate)
            if maker is not None and maker.op_type == "Clip":
                maker = makers.get(maker.input[0])
            if maker is not None and maker.op_type in ("HardSigmoid", "Add") and x in maker.input:
                return True
    return False


def _share_pairs(graph: onnx.GraphProto) -> list[str]:
    """Let equal QuantizeLinear nodes of a tensor be one."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output} | inner_reads(graph)
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type != "QuantizeLinear" or any(name not in stored for name in node.input[1:]):
            continue
        ends = [
            (stored[name].data_type, numpy_helper.to_array(stored[name]).tobytes())
            for name in node.input[1:]
        ]
        given = sorted(each.SerializeToString() for each in node.attribute)
        key = (node.input[0], *ends, *given)
        if key not in first:
            first[key] = node.output[0]
        elif node.output[0] not in outputs:
            same[node.output[0]] = first[key]
    kept = [node for node in graph.node if not node.output or node.output[0] not in same]
    del graph.node[:]
    graph.node.extend(kept)
    return list(same)


def _fold_normalizations(graph: onnx.GraphProto) -> list[str]:
    """Fold each BatchNormalization into the steps of the weights in front of it."""
    stored: Stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    readers.update(inner_reads(graph))
    free, folded = FreeNames(graph), list[str]()
    for node in list(graph.node):
        first = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        divided = _divisor(first, stored)
        conv = first if first is None or divided is None else makers.get(first.input[0])
        if first is None or conv is None or conv.op_type != "Conv":
            continue
        if any(readers[each.output[0]] > 1 for each in (first, conv)):
            continue
        weights = makers.get(conv.input[1])
        if weights is None or readers[conv.input[1]] > 1:
            continue
        made = _folded(node, conv, weights, makers, stored, divided)
        if made is None:
            continue
        places = [(weights, index) for index in range(3)] + [(conv, 2)]
        for (reader, index), array in zip(places, made, strict=True):
            name = free.take(f"{conv.output[0]}.folded")
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            reader.input[:] = [*reader.input[:index], name, *reader.input[index + 1 :]]
        axis = [each for each in weights.attribute if each.name != "axis"]
        del weights.attribute[:]
        weights.attribute.extend([*axis, helper.make_attribute("axis", 0)])
        conv.output[0] = node.output[0]
        graph.node.remove(node)
        if first is not conv:
            graph.node.remove(first)
        folded.append(node.name or node.output[0])
    return folded


def _divisor(node: onnx.NodeProto | None, stored: Stored) -> NDArray[np.float64] | None:
    """Return what each channel of an image is divided by, where a node does that and no more.

    torch's QAT quantizes weights that it multiplied by what BatchNormalization will multiply.
    """
    if node is None or node.op_type != "Div" or node.input[1] not in stored:
        return None
    by = stored[node.input[1]]
    channels = by.shape[1] if by.ndim == _RANK else 0
    if by.shape != (1, channels, 1, 1) or by.dtype != np.float32 or not by.all():
        return None
    return by.reshape(-1).astype(np.float64)


def _folded(
    batchnorm: onnx.NodeProto,
    conv: onnx.NodeProto,
    weights: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    stored: Stored,
    divided: NDArray[np.float64] | None = None,
) -> list[NDArray[Any]] | None:
    """Return integers, steps and zero points of the weights, and the bias; None to leave it.

    `divided` is what the channels are divided by between both.
    """
    given = {each.name: helper.get_attribute_value(each) for each in batchnorm.attribute}
    if given.get("training_mode") or any(batchnorm.output[1:]):
        return None
    if any(name not in stored for name in batchnorm.input[1:]):
        return None
    held = _dequantized(weights, stored)
    bias = _values(conv.input[2], makers, stored) if len(conv.input) > 2 else np.zeros(())
    if held is None or bias is None or weights.op_type != "DequantizeLinear":
        return None
    integers, steps, zero = held
    scale, shift, mean, variance = (
        stored[name].astype(np.float64) for name in batchnorm.input[1:]
    )
    if divided is not None:
        scale, mean = scale / divided, mean * divided
    factor = scale / np.sqrt(variance + given.get("epsilon", _EPSILON))
    lowest = np.iinfo(integers.dtype).min
    turned = (factor < 0).any()
    if (factor == 0).any():
        return None
    if turned and (lowest == 0 or zero.any() or (integers == lowest).any()):
        return None  # some integers have no opposite
    signs = np.where(factor < 0, -1, 1).astype(integers.dtype)
    wide = integers * signs.reshape(-1, *(1,) * (integers.ndim - 1)) if turned else integers
    return [
        wide,
        (steps.astype(np.float64) * np.abs(factor)).astype(np.float32),
        np.broadcast_to(zero, factor.shape),
        ((bias - mean) * factor + shift).astype(np.float32),
    ]


def _dequantized(
    node: onnx.NodeProto, stored: Stored
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """Return stored integers with their steps and zero points, one or one for each output."""
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type != "DequantizeLinear" or any(name not in stored for name in node.input):
        return None
    integers, steps, *zeros = (stored[name] for name in node.input)
    zero = zeros[0] if zeros else np.zeros(steps.shape, integers.dtype)
    if integers.dtype not in (np.int8, np.uint8, np.int32) or given.get("block_size"):
        return None
    if steps.size > 1 and given.get("axis", 1) % max(1, integers.ndim) != 0:
        return None
    return integers, steps.reshape(-1), zero.reshape(-1)


def _values(
    name: str, makers: dict[str, onnx.NodeProto], stored: Stored
) -> NDArray[np.float64] | None:
    """Return a stored bias, or what stored integers stand for; None for anything else."""
    if not name:
        return np.zeros(())
    if name in stored:
        return stored[name].astype(np.float64)
    held = _dequantized(makers[name], stored) if name in makers else None
    if held is None:
        return None
    integers, steps, zero = (each.astype(np.float64) for each in held)
    return (integers - zero) * steps
