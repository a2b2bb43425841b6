"""Go through the nodes of a graph once: the first rule that takes a node plans its kernel.

What no rule takes is lowered by TVM, in regions of up to 128 nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from typing import TypeVar

import numpy as np
import onnx
import tvm

from mbv3c.errors import ModelError
from mbv3c.lowering import fallback
from mbv3c.lowering.plan import (
    Convolution,
    Depthwise,
    Elementwise,
    GlobalPool,
    Kernel,
    Kernels,
    Plan,
    Pointwise,
    Value,
)
from mbv3c.lowering.schedules.emit import Activation
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import INT8, Deferred, Memory
from mbv3c.lowering.select.nodes import (
    ARITHMETIC,
    RENAMES,
    ImageConvolution,
    MatrixProduct,
    activation_of,
    convolution_of,
    ordered_operands,
    per_channel,
    product_of,
    with_activation,
)

# Nodes that TVM lowers together. Every kernel of a region names all its nodes, so that those of a
# network that was unrolled into thousands would be named millions of times.
_LARGEST_REGION = 128


@dataclass
class Selection:
    """What a rule works with.

    Attributes:
        graph: the graph.
        kernels: the writer of kernels for the processor.
        memory: the plan so far, and where tensors lie in it.
        target: TVM's target, for what no rule takes.
        narrow: the type in which kernels store and compute fp32 tensors.
        keep_float: patterns of names of nodes that stay in fp32 instead.
        dtype: the type in which the kernel of the present node stores and computes.
        pending: nodes that no rule took, and that no kernel computes so far.
    """

    graph: Graph
    kernels: Kernels
    memory: Memory
    target: tvm.target.Target
    narrow: str = "float32"
    keep_float: Sequence[str] = ()
    dtype: str = field(default="float32", init=False)
    pending: list[onnx.NodeProto] = field(default_factory=list, init=False)

    def value(self, name: str, *, channels_last: bool) -> str:
        """Return the value that holds a tensor in the type of the present kernel."""
        return self.memory.value(name, self.dtype, channels_last=channels_last)

    def emit(
        self,
        kind: str,
        covered: Sequence[onnx.NodeProto],
        kernel: Kernel,
        inputs: Sequence[str],
        madds: int = 0,
        *,
        after: tuple[str, ...] = (),
        channels_last: bool = True,
    ) -> None:
        """Append a kernel that reads `inputs`, its constants and what comes `after` them.

        Its last argument is the output of the last node that it covers.
        """
        result, dtype = covered[-1].output[0], str(kernel.function.params[-1].dtype)
        last = self.memory.add_result(result, dtype, channels_last=channels_last)
        arguments = (*inputs, *kernel.constants, *after, result)
        self.memory.append(kind, covered, kernel, arguments, (result,), madds)
        self.memory.hold(result, result, channels_last=last)

    def is_pending(self, name: str) -> bool:
        return any(name in node.output for node in self.pending)


AnySelection = TypeVar("AnySelection", bound=Selection)
# Plans the kernel that begins with a node and perhaps covers some after it, and says so; or
# leaves the node to the rules that follow.
Rule = Callable[[onnx.NodeProto, AnySelection], bool]


def run_rules(selection: AnySelection, rules: Sequence[Rule[AnySelection]]) -> Plan:
    """Plan a kernel for every node by the first rule that takes it.

    Raises:
        ModelError: a node has no known shape or makes tensors without elements, or TVM cannot
            lower what no rule takes.
    """
    graph, memory = selection.graph, selection.memory
    graph.check_filled()
    for node in graph.model.graph.node:
        kept = any(fnmatchcase(node.name, pattern) for pattern in selection.keep_float)
        selection.dtype = "float32" if kept else selection.narrow
        if node.output[0] in memory.covered or any(rule(node, selection) for rule in rules):
            continue
        _postpone(node, selection)
    for name in graph.outputs:
        memory.write_output(name)
    return memory.plan


def _postpone(node: onnx.NodeProto, selection: Selection) -> None:
    """Leave a node to the fallback, with those after it that no rule takes either."""
    if len(selection.pending) == _LARGEST_REGION:
        _lower_pending(selection)
    selection.pending.append(node)
    deferred = Deferred(partial(_lower_pending, selection), channels_last=False)
    selection.memory.deferred.update(dict.fromkeys(node.output, deferred))
    if any(name in selection.graph.steps for name in node.output):
        _lower_pending(selection)  # what is rounded is no part of a larger region


def _lower_pending(selection: Selection) -> None:
    """Lower what is pending by the fallback."""
    graph, memory = selection.graph, selection.memory
    nodes, selection.pending = selection.pending, []
    written = {name for node in nodes for name in node.output}
    inside = {id(node) for node in nodes}
    for name in written:
        del memory.deferred[name]
    read = dict.fromkeys(
        name
        for node in nodes
        for name in node.input
        if graph.is_value(name) and name not in written
    )
    outputs = [
        name
        for node in nodes
        for name in node.output
        if name in graph.outputs or any(id(user) not in inside for user in graph.users(name))
    ]
    values = {name: memory.value(name, graph.dtype(name), channels_last=False) for name in read}
    inputs, results = (
        {name: (graph.shape(name), graph.types[name].elem_type) for name in names}
        for names in (read, outputs)
    )
    prefix = memory.unused_name(f"region.{len(memory.plan.steps)}.")
    lowered = fallback.lower_region(
        graph.model, nodes, inputs, results, prefix, selection.target, selection.kernels.operator
    )
    for step in lowered.steps:
        arguments = tuple(
            values.get(argument, argument) if isinstance(argument, str) else argument
            for argument in step.arguments
        )
        memory.plan.steps.append(replace(step, arguments=arguments))
    memory.plan.values.update(lowered.values)
    _check_types(lowered, graph)
    memory.covered.update(node.output[0] for node in nodes)
    for name, value in lowered.held.items():
        held = values.get(value, value) if isinstance(value, str) else memory.copy(name, value)
        memory.hold(name, held, channels_last=False)


def _check_types(lowered: fallback.LoweredRegion, graph: Graph) -> None:
    """Make sure that TVM's operators return what ONNX says that they return."""
    for name, value in lowered.held.items():
        made = lowered.values.get(value) if isinstance(value, str) else None
        declared = Value(graph.shape(name), graph.dtype(name))
        if made is not None and made != declared:
            makers = (node.op_type for node in graph.model.graph.node if name in node.output)
            raise ModelError(
                f"TVM {tvm.__version__} makes {made.dtype} {made.shape} of {name!r}, which is "
                f"{declared.dtype} {declared.shape} (output of {next(makers)}); write that in "
                "other operators, or leave it out of the export and compute it after the model"
            )


def rename(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take what changes the shape and not the memory."""
    graph, memory = selection.graph, selection.memory
    if node.op_type not in RENAMES:
        return False
    x, y = node.input[0], node.output[0]
    if not graph.is_value(x) or selection.is_pending(x):
        return False
    if any(graph.users(name) or name in graph.outputs for name in node.output[1:]):
        return False  # a Dropout's mask
    dtype = memory.made_type(x)
    if x in graph.steps and graph.steps.setdefault(y, graph.steps[x]) != graph.steps[x]:
        dtype = selection.dtype  # is rounded again, in other steps
    memory.hold(y, memory.value(x, dtype, channels_last=False), channels_last=False)
    memory.covered.add(y)
    return True


def depthwise(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a depthwise convolution, with the activation after it."""
    conv = convolution_of(node, selection.graph)
    if conv is None or not conv.is_depthwise:
        return False
    covered, activation = with_activation(node, selection.graph)
    shape = Depthwise(conv.batch, conv.inputs, *conv.axes, activation, selection.dtype)
    kernel = selection.kernels.depthwise(shape, conv.weights, conv.bias)
    x = selection.value(node.input[0], channels_last=True)
    selection.emit("depthwise", covered, kernel, (x,), shape.madds)
    return True


def pointwise(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a 1x1 convolution or a matrix product, with an activation and a sum after it."""
    product = product_of(node, selection.graph)
    if product is None:
        return False
    x = selection.value(node.input[0], channels_last=product.channels_last)
    covered, shape, addends = fused_product(node, product, selection)
    kernel = selection.kernels.pointwise(shape, product.weights, product.bias)
    selection.emit("pointwise", covered, kernel, (x,), shape.madds, after=addends)
    return True


def convolution(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take any other dense convolution; it reads the image as it lies in memory."""
    conv = convolution_of(node, selection.graph)
    if conv is None or conv.groups != 1:
        return False
    covered, activation = with_activation(node, selection.graph)
    kernel, value, madds = dense_kernel(conv, node.input[0], activation, selection)
    selection.emit("convolution", covered, kernel, (value,), madds)
    return True


def global_pool(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a global average pool of an image of floats."""
    graph = selection.graph
    if node.op_type != "GlobalAveragePool" or not graph.is_image(node.input[0]):
        return False
    x = node.input[0]
    if not graph.is_value(x) or not graph.is_float(x):
        return False
    batch, channels, *sides = graph.shape(x)
    kernel = selection.kernels.global_pool(
        GlobalPool(batch, prod(sides), channels, selection.dtype)
    )
    value = selection.value(x, channels_last=True)
    selection.emit("global_pool", [node], kernel, (value,))
    return True


def elementwise(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take an activation that stands alone, or a sum or product with the activation after it."""
    graph, operator = selection.graph, ARITHMETIC.get(node.op_type, "")
    covered, activation = [node], activation_of(node, selection.graph)
    if activation is None and not operator:
        return False
    operands = node.input[: 2 if operator else 1]
    if operator and any(name in graph.stored for name in operands):
        return _with_stored_operand(node, operator, selection)
    if not all(graph.is_value(name) and graph.is_float(name) for name in operands):
        return False
    if any(selection.is_pending(name) for name in operands):
        return False
    ordered = ordered_operands(operands, node.output[0], graph)
    if ordered is None:
        return False
    names, broadcast = ordered
    last = reads_channels_last(names, broadcast, selection)
    batch, places, channels = extents_of(graph.shape(names[0]), apart=last)
    if activation is None:
        covered, activation = with_activation(node, graph)
    shape = Elementwise(batch, places, channels, operator, broadcast, activation, selection.dtype)
    inputs = tuple(selection.value(name, channels_last=last) for name in names)
    kernel = selection.kernels.elementwise(shape)
    selection.emit("elementwise", covered, kernel, inputs, channels_last=last)
    return True


def _with_stored_operand(node: onnx.NodeProto, operator: str, selection: Selection) -> bool:
    """Take a sum or product of an image, as our kernels left it, and a number per channel."""
    graph, y = selection.graph, node.output[0]
    names = [name for name in node.input if graph.is_value(name)]
    if len(names) != 1 or not graph.is_float(names[0]) or selection.is_pending(names[0]):
        return False
    (x,) = names
    if graph.shape(x) != graph.shape(y) or graph.is_flat(x):
        return False
    if not selection.memory.has_channels_last(x):
        return False  # TVM takes it as it lies
    (stored,) = (graph.stored[name] for name in node.input if name != x)
    batch, places, channels = extents_of(graph.shape(x), apart=True)
    numbers = per_channel(stored, channels)
    if numbers is None or stored.dtype != np.float32:
        return False
    covered, activation = with_activation(node, graph)
    shape = Elementwise(batch, places, channels, operator, True, activation, selection.dtype)
    rows = np.ascontiguousarray(np.broadcast_to(numbers.astype(np.float32), (batch, channels)))
    kernel = selection.kernels.elementwise(shape)
    value = selection.value(x, channels_last=True)
    selection.emit("elementwise", covered, replace(kernel, constants=(rows,)), (value,))
    return True


# ---- what rules share ----


def dense_kernel(
    conv: ImageConvolution, x: str, activation: Activation, selection: Selection
) -> tuple[Kernel, str, int]:
    """Return the kernel of a dense convolution, the value that it reads, and multiply-adds."""
    channels_first, source = not selection.memory.has_channels_last(x), selection.dtype
    if channels_first and (made_type := selection.memory.made_type(x)) != INT8:
        source = made_type  # the kernel converts it
    shape = Convolution(
        conv.batch,
        conv.inputs,
        conv.outputs,
        *conv.axes,
        activation,
        channels_first,
        selection.dtype,
        source,
    )
    kernel = selection.kernels.convolution(shape, conv.weights, conv.bias)
    value = selection.memory.value(x, source, channels_last=not channels_first)
    return kernel, value, shape.madds


def fused_product(
    node: onnx.NodeProto, product: MatrixProduct, selection: Selection
) -> tuple[list[onnx.NodeProto], Pointwise, tuple[str, ...]]:
    """Return what a product covers, its shape, and the value that it adds, if any."""
    covered, activation = with_activation(node, selection.graph)
    residual = _residual_after(covered[-1], selection)
    outputs, inputs = product.weights.shape
    shape = Pointwise(
        product.rows, inputs, outputs, activation, residual is not None, selection.dtype
    )
    if residual is None:
        return covered, shape, ()
    total, addend = residual
    return [*covered, total], shape, (addend,)


def _residual_after(
    node: onnx.NodeProto, selection: Selection
) -> tuple[onnx.NodeProto, str] | None:
    """Return the Add that is the only user, and the value that it adds, if that is ready."""
    graph, result = selection.graph, node.output[0]
    total = graph.float_follower(result)
    if total is None or total.op_type != "Add":
        return None
    if graph.shape(total.output[0]) != graph.shape(result):
        return None
    others = [name for name in total.input if name != result]
    if len(others) != 1 or not graph.is_value(others[0]):
        return None
    if not selection.memory.is_ready(others[0]) or graph.shape(others[0]) != graph.shape(result):
        return None
    return total, selection.value(others[0], channels_last=True)


def reads_channels_last(operands: Sequence[str], per_channel: bool, selection: Selection) -> bool:
    """Say whether an elementwise kernel reads images with the channels last."""
    if per_channel or not selection.graph.is_image(operands[0]):
        return per_channel
    return any(selection.memory.has_channels_last(name) for name in operands)


def extents_of(shape: Sequence[int], *, apart: bool) -> tuple[int, int, int]:
    """Return batch, places and channels of an elementwise kernel.

    Where it need not keep them `apart`, all numbers are the channels of one place.
    """
    return (shape[0], prod(shape[2:]), shape[1]) if apart else (1, 1, prod(shape))
