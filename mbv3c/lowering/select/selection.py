"""Go through the nodes of a graph once: the first rule that takes a node plans its kernel.

What no rule takes is lowered by TVM, in regions as large as can be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeVar

import onnx
import tvm

from mbv3c.errors import ModelError
from mbv3c.lowering import fallback
from mbv3c.lowering.kernels import Kernel, Kernels
from mbv3c.lowering.plan import Plan, Value
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import Deferred, Memory


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
        dtype: the one of both types that the kernel of the present node takes.
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
        ModelError: a node has no known shape, or TVM cannot lower what no rule takes.
    """
    graph, memory = selection.graph, selection.memory
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
    selection.pending.append(node)
    deferred = Deferred(partial(_lower_pending, selection), channels_last=False)
    selection.memory.deferred.update(dict.fromkeys(node.output, deferred))
    if any(name in selection.graph.steps for name in node.output):
        _lower_pending(selection)  # what is rounded is no part of a larger region


def _lower_pending(selection: Selection) -> None:
    """Lower what is pending by the fallback."""
    graph, memory = selection.graph, selection.memory
    nodes, selection.pending = selection.pending, []
    made = {name for node in nodes for name in node.output}
    inside = {id(node) for node in nodes}
    for name in made:
        del memory.deferred[name]
    read = dict.fromkeys(
        name for node in nodes for name in node.input if graph.is_value(name) and name not in made
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
        graph.model, nodes, inputs, results, prefix, selection.target, selection.kernels.schedule
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
            raise ModelError(
                f"TVM {tvm.__version__} makes {made.dtype} {made.shape} of {name!r}, which is "
                f"{declared.dtype} {declared.shape}"
            )
