"""Compute in fp32 what a model computes in fp16 or bfloat16.

    x (fp16) → Conv → Relu → y (fp16)   ⇒   x (fp16) → Cast → Conv → Relu → Cast → y (fp16)

The weights and everything between are fp32 then, which kernels and the quantizer take; the ends
keep their types. Precision is only gained. `mbv3c compile --precision fp16` stores halves again.
The file would be twice as large, so `optimize` does not do this.
"""

import onnx
from onnx import TensorProto, helper, numpy_helper

from mbv3c.passes.names import FreeNames, graphs_of
from mbv3c.passes.report import PassReport, Refusal

NAME = "widen_halves"
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPED = ("to", "dtype")  # attributes that hold the type of a node's output


def widen_halves(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Make fp32 of all tensors of half precision, but for the ends of the graph."""
    before = len(model.graph.node)
    if _is_done(model.graph):
        return model, PassReport(NAME, (), (), before, before, False)
    for node in model.graph.node:
        if any(graphs_of(node)):
            reason = f"{node.op_type} holds a graph of its own, which is not looked into"
            refusal = Refusal(node.name or node.output[0], reason)
            return model, PassReport(NAME, (), (refusal,), before, before, False)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type in _HALVES:
            tensor.CopyFrom(_as_float(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPED and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type in _HALVES:
                attribute.t.CopyFrom(_as_float(attribute.t))
    del graph.value_info[:]
    _cast_ends(graph, FreeNames(graph))
    changed = tuple(node.name or node.output[0] for node in graph.node if node.op_type == "Cast")
    return copy, PassReport(NAME, changed or (NAME,), (), before, len(graph.node), True)


def _is_done(graph: onnx.GraphProto) -> bool:
    """Say whether only Casts at the ends deal with halves, if anything does."""
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    if any(tensor.data_type in _HALVES for tensor in graph.initializer):
        return False
    halves = {value.name for value in graph.input if value.type.tensor_type.elem_type in _HALVES}
    for node in graph.node:
        is_cast = node.op_type == "Cast"
        if any(name in halves for name in node.input) and not is_cast:
            return False
        to = {a.i for a in node.attribute if a.name in _TYPED}
        if to & {*_HALVES} and not (is_cast and node.output[0] in outputs - inputs):
            return False
    made = {node.output[0] for node in graph.node if node.op_type == "Cast"}
    return all(
        value.name in made for value in graph.output if value.type.tensor_type.elem_type in _HALVES
    )


def _as_float(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name)


def _cast_ends(graph: onnx.GraphProto, names: FreeNames) -> None:
    """Convert inputs of half precision to fp32, and what leaves as half precision back to it."""
    stored = {tensor.name for tensor in graph.initializer}
    first, last = [], []
    renamed: dict[str, str] = {}
    for value in graph.input:
        if value.type.tensor_type.elem_type in _HALVES and value.name not in stored:
            renamed[value.name] = wide = names.take(f"{value.name}.wide")
            first.append(_cast(names, value.name, wide, TensorProto.FLOAT))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for output in graph.output:
        kind = output.type.tensor_type.elem_type
        if kind not in _HALVES or output.name in renamed:
            continue
        wide = names.take(f"{output.name}.wide")
        for node in graph.node:
            node.input[:] = [wide if name == output.name else name for name in node.input]
            node.output[:] = [wide if name == output.name else name for name in node.output]
        for tensor in graph.initializer:
            if tensor.name == output.name:
                tensor.name = wide
        last.append(_cast(names, wide, output.name, kind))
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast(names: FreeNames, source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], names.take(f"{result}.cast"), to=to)
