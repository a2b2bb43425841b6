"""Which TopK a kernel of ours takes on CPUs."""

from collections.abc import Callable
from math import prod

import onnx

from mbv3c.lowering.plan import Kernel
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import attribute_of
from mbv3c.lowering.select.selection import Selection
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import top
from mbv3c.targets.cpu.schedules.top import Top

_NUMBERED = 2  # inputs, from opset 10 on; before, the number is an attribute


def taken_in(model: onnx.ModelProto) -> Callable[[onnx.NodeProto], bool]:
    """Return what says of a node of a model whether it is a TopK that the kernel takes.

    One that does not sort has an order of onnxruntime's own.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    return lambda node: _is_taken(node, stored.__contains__)


def _is_taken(node: onnx.NodeProto, is_stored: Callable[[str], bool]) -> bool:
    if node.op_type != "TopK" or len(node.input) != _NUMBERED or not is_stored(node.input[1]):
        return False
    return not is_stored(node.input[0]) and bool(attribute_of(node, "sorted", 1))


def write_top(node: onnx.NodeProto, selection: Selection, processor: Processor) -> bool:
    """Plan the kernel of a TopK, which makes both outputs, whoever reads them; say if it does."""
    graph, memory = selection.graph, selection.memory
    if not _is_taken(node, graph.stored.__contains__):
        return False
    x = node.input[0]
    shape = _shape_of(node, graph)
    if not 0 < shape.count <= shape.size:
        return False
    source = memory.value(x, shape.dtype, channels_last=False)
    names = [*node.output, ""][:2]
    taken = (shape.rows, shape.count, shape.columns)
    written = []
    for name, dtype in zip(names, (shape.dtype, "int64"), strict=True):
        if name in graph.types:
            memory.add_result(name, dtype, channels_last=False)
            written.append(name)
        else:
            written.append(memory.add_value(f"{node.output[0]}.unread", taken, dtype))
    kernel = Kernel(top.generate(shape, processor))
    memory.append("top", [node], kernel, (source, *written), tuple(written))
    for name in filter(graph.types.__contains__, names):
        memory.hold(name, name, channels_last=False)
    return True


def _shape_of(node: onnx.NodeProto, graph: Graph) -> Top:
    extents = graph.shape(node.input[0])
    axis = attribute_of(node, "axis", -1) % len(extents)
    return Top(
        prod(extents[:axis]),
        extents[axis],
        prod(extents[axis + 1 :]),
        int(graph.stored[node.input[1]].item()),
        bool(attribute_of(node, "largest", 1)),
        graph.dtype(node.input[0]),
    )
