"""The part of a quantized graph that comes behind the NPU, as a model for the CPU."""

from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto, helper

from mbv3c.errors import ModelError
from mbv3c.targets.ethos_u.lowering.layout import AXES
from mbv3c.targets.ethos_u.lowering.region import Boundary

_FLAT = 2  # rank of N, C


def host_part(model: onnx.ModelProto, boundaries: Sequence[Boundary]) -> onnx.ModelProto:
    """Cut off what comes behind the NPU.

        NPU → QuantizeLinear → t → rest   ⇒   boundary (int8, N, H, W, C) → Transpose → t → rest

    Args:
        model: model with QDQ pairs.
        boundaries: outputs of the NPU, which become inputs, laid out as on the device.

    Returns:
        A model with the outputs of `model`.

    Raises:
        ModelError: the part needs a tensor that the NPU does not give.
    """
    graph = model.graph
    makers = {node.name: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    cut = {makers[boundary.made_by]: boundary for boundary in boundaries}
    nodes, needed = _behind(model, set(cut))
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    inputs: list[onnx.ValueInfoProto] = []
    first: list[onnx.NodeProto] = []
    for tensor, boundary in cut.items():
        name = _free(boundary.name, taken)
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT8, boundary.device_shape))
        first.extend(_in_order_of_model(name, tensor, boundary))
    made = helper.make_graph(
        [*first, *nodes],
        f"{graph.name} on the CPU",
        inputs,
        list(graph.output),
        [tensor for tensor in graph.initializer if tensor.name in needed],
    )
    host = helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(host)
    return host


def _behind(model: onnx.ModelProto, cut: set[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes between the cut and the outputs, in order, and the tensors they read."""
    needed = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & (set(node.output) - cut):
            nodes.append(node)
            needed.update(node.input)
    inputs = {tensor.name for tensor in model.graph.input}
    stored = {tensor.name for tensor in model.graph.initializer}
    from_input = sorted(needed & (inputs - stored))
    if from_input:
        raise ModelError(
            f"{_readers(nodes, from_input)} would stay on the CPU and reads "
            f"{', '.join(from_input)}, which goes to the NPU; only what comes behind the NPU can "
            "stay: leave it out of the network, or use another target, such as arm_cpu with "
            "--precision int8"
        )
    return nodes[::-1], needed


def _readers(nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> str:
    """Name the nodes that read any of these tensors, or its rounded values."""
    read, named = {*names}, list[str]()
    for node in reversed(nodes):
        if not read.intersection(node.input):
            continue
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            read.update(node.output)
        else:
            named.append(f"{node.op_type} ({node.name or node.output[0]})")
    return ", ".join(named)


def _in_order_of_model(name: str, tensor: str, boundary: Boundary) -> Iterator[onnx.NodeProto]:
    """Yield nodes that bring N, H, W, C into the order of the model: N, C, H, W, or a part."""
    rank = len(boundary.shape)
    moved = tensor if rank == len(AXES) else f"{tensor}.moved"
    yield helper.make_node("Transpose", [name], [moved], f"{tensor}.transpose", perm=AXES)
    if rank == _FLAT:
        yield helper.make_node("Flatten", [moved], [tensor], f"{tensor}.flatten", axis=1)
    elif rank < len(AXES):
        shape = f"{tensor}.shape"
        yield helper.make_node("Constant", [], [shape], shape, value_ints=boundary.shape)
        yield helper.make_node("Reshape", [moved, shape], [tensor], f"{tensor}.reshape")


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}.int8"
    return name
