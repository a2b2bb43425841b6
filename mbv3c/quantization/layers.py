"""Cut a rewritten graph into layers: parts that are quantized, or kept in fp32, together.

Conv → HardSwish, Conv → Clip, GlobalAveragePool → Flatten, Mul, Add: one layer each
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mbv3c.errors import ModelError
from mbv3c.graphs.count import computed_types
from mbv3c.graphs.outputs import detector_outputs, metadata_of
from mbv3c.passes.names import name_nodes
from mbv3c.quantization.gemm_bias import with_biases_of_channels

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CLAMPS = frozenset({"Relu", "Clip"})
_ACTIVATIONS = CLAMPS | {"HardSwish", "HardSigmoid", "Sigmoid"}
_MOVES = frozenset({"Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
# One integer step is too coarse for results of these: probabilities near 0, exponents, indices.
_KEPT_FLOAT = frozenset({"Softmax", "LogSoftmax", "Exp", "Log", "ArgMax", "TopK"})
# A TopK that is written out asks whether a number is the largest; rounded, it might be none.
_CHOOSING = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Where"})
_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})

_QUANTIZED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
    }
)
_CONSTANT_TYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@dataclass(frozen=True)
class Layer:
    """Nodes that are quantized together.

    Attributes:
        name: name of the first node.
        operators: operators of the nodes, in graph order.
        nodes: names of the nodes, in graph order.
        outputs: names of the tensors that the nodes make.
    """

    name: str
    operators: tuple[str, ...]
    nodes: tuple[str, ...]
    outputs: tuple[str, ...]


def normalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which nodes have names of their own and constants are initialisers.

    Gemm's biases are one number for each channel.

    Raises:
        ModelError: the model is quantized already.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    del named.graph.node[:]
    for node in model.graph.node:
        if node.op_type in _QUANTIZED:
            raise ModelError(
                f"the model is quantized already (node {node.name!r} is {node.op_type}); give the "
                "fp32 model"
            )
        tensor = _constant(node)
        if tensor is None:
            named.graph.node.append(node)
        else:
            named.graph.initializer.append(tensor)
    name_nodes(named.graph)
    return with_biases_of_channels(named)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return what a Constant node holds, named like its output; None for any other node."""
    for attribute in node.attribute if node.op_type == "Constant" else ():
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            return tensor
        dtype = _CONSTANT_TYPES.get(attribute.name)
        if dtype is not None:
            array = np.array(helper.get_attribute_value(attribute), dtype)
            return numpy_helper.from_array(array, node.output[0])
    return None


_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def float_tensors(model: onnx.ModelProto) -> dict[str, None]:
    """Return the fp32 tensors that a graph computes, its input first; constants are left out."""
    types = computed_types(shape_inference.infer_shapes(model).graph)
    return {name: None for name, kind in types.items() if kind == TensorProto.FLOAT}


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Cut a graph, whose nodes have names, into the layers that may be quantized."""
    skipped = left_float(model)
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(output.name for output in model.graph.output)
    types = computed_types(shape_inference.infer_shapes(model).graph)
    computed = float_tensors(model)
    parts: list[list[onnx.NodeProto]] = []
    owner: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.name in skipped or not any(name in computed for name in node.output):
            continue
        if any(types.get(name) in _OTHER_FLOATS for name in node.input):
            continue  # a conversion, which no integer computes
        part = owner.get(node.input[0]) if node.input and uses[node.input[0]] == 1 else None
        if part is None or not _joins(node, part):
            part = []
            parts.append(part)
        part.append(node)
        owner.update(dict.fromkeys(node.output, part))
    return tuple(
        Layer(
            part[0].name,
            tuple(node.op_type for node in part),
            tuple(node.name for node in part),
            tuple(name for node in part for name in node.output),
        )
        for part in parts
    )


def _joins(node: onnx.NodeProto, part: list[onnx.NodeProto]) -> bool:
    if node.op_type in _MOVES:
        return True
    return node.op_type in _ACTIVATIONS and part[-1].op_type in WEIGHTED


def left_float(model: onnx.ModelProto) -> dict[str, str]:
    """Return the nodes that are never quantized, each with the reason."""
    before_weights = _before_weights(model)
    tail = [node for node in model.graph.node if node.name not in before_weights]
    reasons: dict[str, str] = {}
    if _is_detector(model):
        for node in tail:
            if node.op_type not in WEIGHTED and node.op_type not in _ACTIVATIONS:
                reasons[node.name] = "post-processing of a detector: boxes and probabilities"
        return reasons
    behind: set[str] = set()
    chosen = {name for node in tail if node.op_type in _CHOOSING for name in node.input}
    for node in tail:
        chooses = node.op_type in _CHOOSING
        chooses |= node.op_type in _EXTREMES and bool(chosen & set(node.output))
        if node.op_type in _KEPT_FLOAT or chooses or behind & set(node.input):
            behind.update(node.output)
            reasons[node.name] = "behind the last weights, at or after a Softmax or its like"
    return reasons


def _is_detector(model: onnx.ModelProto) -> bool:
    names = [output.name for output in model.graph.output]
    return detector_outputs(metadata_of(model), names) is not None


def _before_weights(model: onnx.ModelProto) -> set[str]:
    """Return the nodes on which a later node with weights depends."""
    needed: set[str] = set()
    before: set[str] = set()
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            before.add(node.name)
            needed.update(node.input)
        elif node.op_type in WEIGHTED:
            needed.update(node.input)
    return before


def clamped_inside(model: onnx.ModelProto, parts: Mapping[str, Layer]) -> list[str]:
    """Return the tensors between the weights and the clamp of a layer.

    They are not quantized: the integers after the clamp saturate as the clamp does.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    tensors = []
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type in CLAMPS else None
        if maker is None or maker.op_type not in WEIGHTED or node.name not in parts:
            continue
        if parts.get(maker.name) is parts[node.name]:
            tensors.append(node.input[0])
    return tensors
