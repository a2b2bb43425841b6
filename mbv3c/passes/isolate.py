"""Cut out of a graph what one rewrite touches, as two models: before and after.

    … → x → Conv → BatchNormalization → y → …   ⇒   x → Conv → BatchNormalization → y
                                                    x → Conv → y

Both have equal inputs and one output. Constants come along. A tensor that cannot be fed with
numbers (of unknown shape, or an integer, which is likely a shape) is no input: the nodes that
compute it come along too, in both models, up to tensors that can be fed.
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import helper

from mbv3c.passes.report import Change

_FEEDABLE = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_RESULT = "(result)"


def cut(
    graph: ir.Graph, old: Sequence[ir.Node], replaced: ir.Value, tape: ir.tape.Tape, new: ir.Value
) -> Change:
    """Return as models what computes `replaced` now, and what would compute it in its place.

    The nodes `old` are in the graph, the new ones only on the tape; the graph stays as it is.
    """
    replacing = tuple(tape.nodes)
    inside = {*old, *replacing}
    needed, waiting = set(inside), [*inside]
    while waiting:
        for value in _read(waiting.pop(), graph):
            producer = value.producer()
            if producer is not None and producer not in needed and not _can_be_fed(value):
                needed.add(producer)
                waiting.append(producer)
    above = [node for node in graph if node in needed and node not in inside]
    outside = {
        value: None
        for node in [*above, *old, *replacing]
        for value in _read(node, graph)
        if value.producer() not in needed
    }
    added = [*(output for node in replacing for output in node.outputs), *tape.initializers]
    names = {value: f"(new {i})" for i, value in enumerate(added)}
    inputs = [value for value in outside if not _is_stored(value)]
    before = _model(graph, [*above, *old], inputs, replaced, names)
    after = _model(graph, [*above, *replacing], inputs, new, names, replaced.dtype)
    return Change(before, after, whole_graph=False)


def _read(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the tensors that a node reads, also in graphs inside the node."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from (v for v in inner.inputs if v is not None and v.graph is graph)


def _can_be_fed(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant":
        return False
    fixed = value.shape is not None and all(isinstance(size, int) for size in value.shape)
    return fixed and value.dtype in _FEEDABLE


def _is_stored(value: ir.Value) -> bool:
    """Tell whether a tensor comes along as a constant; a default that can be fed does not."""
    if value.const_value is None or value.producer() is not None:
        return False
    return not (value.is_graph_input() and _can_be_fed(value))


def _model(
    graph: ir.Graph,
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value],
    output: ir.Value,
    names: Mapping[ir.Value, str],
    dtype: ir.DataType | None = None,
) -> onnx.ModelProto:
    def name(value: ir.Value | None) -> str:
        return "" if value is None else names.get(value) or value.name or ""

    tensors = []
    read = (value for node in nodes for value in _read(node, graph) if _is_stored(value))
    for value in dict.fromkeys(read):
        assert value.const_value is not None
        tensor = onnx.TensorProto()
        tensor.CopyFrom(ir.serde.serialize_tensor(value.const_value))
        tensor.name = name(value)
        tensors.append(tensor)
    protos = []
    for node in nodes:
        proto = helper.make_node(
            node.op_type,
            [name(value) for value in node.inputs],
            [name(value) for value in node.outputs],
            name=node.name,
            domain=node.domain,
        )
        proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
        protos.append(proto)
    protos.append(helper.make_node("Identity", [name(output)], [_RESULT]))
    kind = dtype or output.dtype or ir.DataType.FLOAT
    cut_out = helper.make_graph(
        protos,
        "cut",
        [ir.serde.serialize_value(value) for value in inputs],
        [helper.make_tensor_value_info(_RESULT, kind.value, None)],
        tensors,
    )
    imports = [helper.make_opsetid(d, v) for d, v in graph.opset_imports.items()]
    return helper.make_model(cut_out, opset_imports=imports, ir_version=_IR_VERSION)


# Old enough for every onnxruntime, new enough for every operator set that we meet.
_IR_VERSION = 8
