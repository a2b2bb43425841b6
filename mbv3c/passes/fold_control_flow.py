"""Put the body of an If or a Loop in its place, where constants decide how it runs.

    If(true) {then} {else}   ⇒   then
    Loop(3, true) {body}     ⇒   body → body → body

torch's `if x.shape[0] > 1` and `for _ in range(3)` become such nodes. A fixed input shape makes
their conditions and counts constant, which `simplify` folds; so both passes take turns until
nothing is left to do. A Loop is unrolled if its count is constant, its body passes the condition
on, and at most 4,096 nodes come of it. Source: ONNX operators If-16, Loop-16.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.graphs.constants import constants_of
from mbv3c.passes.names import FreeNames, graphs_of
from mbv3c.passes.report import PassReport, Refusal, Removal
from mbv3c.passes.simplify import simplify
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS, opset_of

NAME = "fold_control_flow"
REMOVES = Removal(("If", "Loop"), "whose condition or count is constant")

_MOST_NODES = 4096  # of one Loop
_AXES_ARE_INPUTS = 13  # of Unsqueeze, from this opset on

_Constants = Mapping[str, NDArray[np.generic]]


def fold_control_flow(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Inline every If and Loop whose way is known, and fold what becomes constant by that."""
    before, matched = len(model.graph.node), list[str]()
    if not any(_is_control_flow(node) for node in model.graph.node):
        return model, PassReport(NAME, (), (), before, before, changed=False)
    folded, refused = simplify(model)[0], list[Refusal]()
    while any(_is_control_flow(node) for node in folded.graph.node):
        folding = _Folding(folded)
        if not folding.matched:
            refused = folding.refused
            break
        matched += folding.matched
        folded = simplify(folding.model)[0]
    after = len(folded.graph.node) if matched else before
    report = PassReport(NAME, tuple(matched), tuple(refused), before, after, bool(matched))
    return (folded if matched else model), report


def _is_control_flow(node: onnx.NodeProto) -> bool:
    return node.op_type in REMOVES.operators and node.domain in DEFAULT_DOMAINS


class _Folding:
    """One round over the nodes of a graph.

    Attributes:
        model: the model after the round.
        matched: names of the nodes that gave way to their bodies.
        refused: the others.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.matched: list[str] = []
        self.refused: list[Refusal] = []
        self._opset = opset_of(model)
        graph = self.model.graph
        self._stored = graph.initializer
        self._constants = _values_of(graph)
        self._free = FreeNames(graph).take
        nodes = list[onnx.NodeProto]()
        for node in graph.node:
            if not _is_control_flow(node):
                nodes.append(node)
                continue
            name = node.name or node.output[0]
            made = self._if(node) if node.op_type == "If" else self._loop(node)
            if isinstance(made, str):
                self.refused.append(Refusal(name, made))
                nodes.append(node)
            else:
                self.matched.append(name)
                nodes.extend(made)
        del graph.node[:]
        graph.node.extend(nodes)

    def _if(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | str:
        condition = self._constants.get(node.input[0])
        if condition is None:
            return f"its condition {node.input[0]!r} is computed when the model runs"
        wanted = "then_branch" if condition.all() else "else_branch"
        (branch,) = (attribute.g for attribute in node.attribute if attribute.name == wanted)
        nodes, outputs = self._inlined(branch, {})
        return [*nodes, *_passed_on(outputs, node.output)]

    def _loop(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | str:
        (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
        first, begins, *carried = [*node.input, "", ""][: max(2, len(node.input))]
        times = self._constants.get(first)
        if times is None:
            return "how often it turns is computed when the model runs"
        condition = self._constants.get(begins) if begins else np.array(True)
        if condition is None or not _passes_condition_on(body):
            return "whether it goes on is computed when the model runs"
        turns = int(times.item()) if condition.all() else 0
        if turns * max(1, len(body.node)) > _MOST_NODES:
            return f"{turns} turns of {len(body.node)} nodes are too many to write them one by one"
        states = len(carried)
        collected: list[list[str]] = [[] for _ in body.output[states + 1 :]]
        if collected and turns < 1:
            return "it collects the outputs of its turns, of which there are none"
        if collected and self._opset < _AXES_ARE_INPUTS:
            return f"it collects the outputs of its turns, and the model has opset {self._opset}"
        true = self._stored_as(np.array(True), f"{node.output[0]}.true")
        nodes = list[onnx.NodeProto]()
        for turn in range(turns):
            number = self._stored_as(np.array(turn, np.int64), f"{node.output[0]}.turn{turn}")
            inputs = [value.name for value in body.input]
            made, outputs = self._inlined(
                body, dict(zip(inputs, (number, true, *carried), strict=True))
            )
            nodes += made
            carried = outputs[1 : states + 1]
            for names, name in zip(collected, outputs[states + 1 :], strict=True):
                names.append(name)
        nodes += _passed_on(carried, node.output[:states])
        for names, output in zip(collected, node.output[states:], strict=True):
            nodes += self._stacked(names, output)
        return nodes

    def _stacked(self, names: Sequence[str], output: str) -> Iterator[onnx.NodeProto]:
        axes = self._stored_as(np.array([0], np.int64), f"{output}.axes")
        rows = [self._free(f"{output}.{position}") for position in range(len(names))]
        for name, row in zip(names, rows, strict=True):
            yield helper.make_node("Unsqueeze", [name, axes], [row], row)
        yield helper.make_node("Concat", rows, [output], output, axis=0)

    def _inlined(
        self, body: onnx.GraphProto, bound: Mapping[str, str]
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """Return a body's nodes with names of their own, and what its outputs are called then."""
        names = dict(bound)
        for tensor in body.initializer:
            names[tensor.name] = self._free(tensor.name)
            stored = self._stored.add()
            stored.CopyFrom(tensor)
            stored.name = names[tensor.name]
        for node in body.node:
            names |= {output: self._free(output) for output in node.output if output}
        nodes = [_renamed(node, names) for node in body.node]
        for node in nodes:
            node.name = self._free(node.name) if node.name else ""
        return nodes, [names.get(output.name, output.name) for output in body.output]

    def _stored_as(self, value: NDArray[np.generic], name: str) -> str:
        free = self._free(name)
        self._stored.append(numpy_helper.from_array(value, free))
        return free


def _values_of(graph: onnx.GraphProto) -> _Constants:
    return {name: numpy_helper.to_array(tensor) for name, tensor in constants_of(graph).items()}


def _passes_condition_on(body: onnx.GraphProto) -> bool:
    """Say whether a body never ends its loop: it gives back the condition, or a true constant."""
    given, result = body.input[1].name, body.output[0].name
    made_from = {
        node.output[0]: node.input[0] for node in body.node if node.op_type in ("Identity", "Cast")
    }
    while result in made_from and result != given:
        result = made_from[result]
    constant = _values_of(body).get(result)
    return result == given or (constant is not None and bool(constant.all()))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of a node that uses other names, also in the graphs that it holds."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for side in (copy.input, copy.output):
        side[:] = [names.get(name, name) for name in side]
    for inner in graphs_of(copy):
        own = {value.name for value in inner.input}
        own |= {tensor.name for tensor in inner.initializer}
        own |= {output for each in inner.node for output in each.output}
        outer = {old: new for old, new in names.items() if old not in own}
        renamed = [_renamed(each, outer) for each in inner.node]
        del inner.node[:]
        inner.node.extend(renamed)
        for output in inner.output:
            output.name = outer.get(output.name, output.name)
    return copy


def _passed_on(names: Sequence[str], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Identity", [name], [output], output)
        for name, output in zip(names, outputs, strict=True)
        if output
    ]
