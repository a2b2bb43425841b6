"""Give every node of a graph constants of its own, so that they can be cut."""

from math import prod

import onnx

from mbv3c.errors import ModelError
from mbv3c.graphs.ties import label
from mbv3c.passes.lift_constants import lift_constants

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


def separated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose constants are initialisers, none of them of two nodes.

    Weights of convolutions and dense layers that several nodes share stay shared, and so do single
    numbers.

    Raises:
        ModelError: the model is quantized.
    """
    for node in model.graph.node:
        if node.op_type.startswith(_QUANTIZED):
            raise ModelError(
                f"{label(node)} is {node.op_type}: a quantized model is not cut; give the model "
                "before its quantization"
            )
    lifted, _ = lift_constants(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(lifted)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    taken = set(stored)
    for node in copy.graph.node:
        taken.update((*node.input, *node.output))
    seen: set[str] = set()
    for node in copy.graph.node:
        for at, name in enumerate(node.input):
            tensor = stored.get(name)
            weight = node.op_type in WEIGHTED and at == 1
            if tensor is None or weight or prod(tensor.dims) <= 1:
                continue
            if name in seen:
                twin = copy.graph.initializer.add()
                twin.CopyFrom(tensor)
                twin.name = _free(name, taken)
                node.input[at] = twin.name
            seen.add(name)
    return copy


def _free(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}.{number}" in taken:
        number += 1
    taken.add(f"{name}.{number}")
    return f"{name}.{number}"
