"""Rewrites: a pattern, a check that can refuse with a reason, and a replacement.

Patterns are matched by onnxscript's rewriter, whose notation reads like the maths. The driver is
our own for three reasons: onnxscript drops the reasons of refusals (and calls an intermediate
that is used elsewhere simply "no match"), it invents names for new nodes, and it has no notion of
a scalar constant that may be spelled as a scalar, a `[1]` or a `[1, 1, 1, 1]` tensor.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, takewhile
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import shape_inference
from onnxscript.rewriter import pattern as onnxscript_pattern

from mbv3c.passes.isolate import cut
from mbv3c.passes.node_index import NodeIndex
from mbv3c.passes.report import (
    FAILED_PROOF,
    PassReport,
    Proof,
    ProofVerdict,
    Prover,
    Refusal,
    Removal,
)

Pattern = Callable[..., Any]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Match:
    """A place in the graph where a pattern fits.

    Attributes:
        values: the tensors bound to the pattern's variables.
        scalars: the numbers bound to the variables that the rewrite declares as scalars.
        nodes: the nodes inside the pattern, in graph order; the last one is its root.
        index: the nodes of the graph that holds them.
    """

    values: Mapping[str, ir.Value]
    scalars: Mapping[str, float]
    nodes: tuple[ir.Node, ...]
    index: NodeIndex

    @property
    def graph(self) -> ir.Graph:
        """The graph that holds the nodes."""
        return self.index.graph

    @property
    def opset(self) -> int:
        """Version of the default ONNX operator set."""
        imports = self.graph.opset_imports
        return imports.get("") or imports["ai.onnx"]

    def node(self, op_type: str) -> ir.Node:
        """Return the first matched node of an operator."""
        return next(node for node in self.nodes if node.op_type == op_type)

    @property
    def name(self) -> str:
        """The block that the matched nodes share in their names, or else the root's name."""
        tokens = [re.split(r"([./])", node.name or "") for node in self.nodes]
        shared = takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False))
        block = "".join(column[0] for column in shared).rstrip("./")
        free = block and not self.index.others_are_called(block, self.nodes)
        return block if free else self.nodes[-1].name or ""


class Rewrite(ABC):
    """One rewrite; subclasses say what to look for, when to refuse and what to build.

    Attributes:
        name: name of the pass, as printed.
        patterns: functions of onnxscript's `op` and named variables, one per spelling; operands
            of Add and Mul are tried in both orders.
        scalars: variables that must be constants with one element. A place where they are not is
            no match, and no refusal either.
        constants: variables that must be constants of any size, or else there is no match.
        removes: the operators that the rewrite removes.
        writes: an operator of the replacement, and the first opset in which it is written so.
    """

    name: str
    patterns: tuple[Pattern, ...]
    scalars: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    removes: Removal = Removal((), "")
    writes: tuple[str, int] = ("", 1)

    def check(self, match: Match) -> str | None:
        """Return why this match must be left alone, or None."""
        return None

    @abstractmethod
    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        """Append the replacement to `op` and return its output."""

    def _too_old(self, match: Match) -> str | None:
        operator, first = self.writes
        if match.opset >= first:
            return None
        return f"{operator} needs opset {first}, the model has {match.opset}"

    def __call__(
        self, model: onnx.ModelProto, prover: Prover | None = None
    ) -> tuple[onnx.ModelProto, PassReport]:
        """Apply the rewrite everywhere it fits; the given model is left as it is.

        The prover, if there is one, is asked about every match by itself. A rewrite that does not
        pass is refused and leaves no trace in the graph.
        """
        operators = operators_of(model)
        rules = [
            onnxscript_pattern.Pattern(spelling.graph)
            for spelling in _spellings(self.patterns)
            if spelling.operators <= operators
        ]
        before = len(model.graph.node)
        if not rules:
            return unchanged(model, self.name)
        # Checks need ranks and types of intermediates; inference also makes the copy to work on.
        rewritten = ir.from_proto(shape_inference.infer_shapes(model))
        graph = rewritten.graph
        index = NodeIndex(graph)
        matched: list[str] = []
        refused: list[Refusal] = []
        proofs: list[Proof] = []
        for node in tuple(graph):
            if node.graph is not graph:
                continue  # swallowed by an earlier match
            reasons: list[str] = []
            for match in self._matches(rules, rewritten, node, index):
                reason = (
                    leaking(match.nodes[:-1], match.nodes)
                    or self._too_old(match)
                    or self.check(match)
                )
                if reason is not None:
                    reasons.append(reason)
                    continue
                name, reasons = match.name or node.op_type, []
                verdict = _replace(match, self.build, prover)
                if verdict is not None:
                    proofs.append(Proof(name, verdict))
                if verdict is None or verdict.passed:
                    matched.append(name)
                else:
                    reasons.append(f"{FAILED_PROOF}: {verdict.reason}")
                break
            if reasons:
                refused.append(Refusal(node.name or node.op_type, reasons[0]))
        report = PassReport(
            self.name,
            tuple(matched),
            tuple(refused),
            before,
            len(graph),
            bool(matched),
            tuple(proofs),
        )
        return (ir.to_proto(rewritten) if matched else model), report

    def _matches(
        self,
        rules: list[onnxscript_pattern.Pattern],
        model: ir.Model,
        root: ir.Node,
        index: NodeIndex,
    ) -> Iterator[Match]:
        for rule in rules:
            result = rule.match(model, model.graph, root, check_nodes_are_removable=False)
            if not result:
                continue
            values = {name: value for name, value in result.bindings.items() if value is not None}
            scalars = {name: scalar(values[name]) for name in values if name in self.scalars}
            fixed = all(constant(values[n]) is not None for n in self.constants if n in values)
            if fixed and None not in scalars.values():
                nodes = index.in_order(result.nodes)
                yield Match(values, scalars, nodes, index)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Spelling:
    """A pattern with the operands of Add and Mul in one of their orders.

    Attributes:
        graph: what onnxscript matches; it holds nothing of a model.
        operators: the operators without which there is no match.
    """

    graph: Any
    operators: frozenset[str]


@cache
def _spellings(patterns: tuple[Pattern, ...]) -> tuple[_Spelling, ...]:
    """Return every order of the operands of these patterns."""
    rules = (onnxscript_pattern.RewriteRule(each, _unused) for each in patterns)
    graphs = (variant._target_pattern for rule in rules for variant in rule.commute())
    return tuple(_Spelling(graph, _named_operators(graph)) for graph in graphs)


def _named_operators(graph: Any) -> frozenset[str]:
    names = (node.op_identifier() for node in graph)
    return frozenset(name[1] for name in names if name is not None)


def operators_of(model: onnx.ModelProto) -> set[str]:
    """Return the operators of the graph, without those of the graphs inside its nodes."""
    return {node.op_type for node in model.graph.node}


def unchanged(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, PassReport]:
    """Return a model in which a pass finds nothing to look at, and the pass's report."""
    nodes = len(model.graph.node)
    return model, PassReport(name, (), (), nodes, nodes, changed=False)


def constant(value: ir.Value) -> NDArray[Any] | None:
    """Return the array behind an initialiser or a Constant node, or None."""
    if value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value) -> float | None:
    """Return the number behind a constant with one element, or None."""
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.item())


def static(value: ir.Value) -> tuple[int, ...] | None:
    """Return the shape of a tensor, or None if a dimension is unknown."""
    if value.shape is None:
        return None
    dims = [dim for dim in value.shape if isinstance(dim, int)]
    return tuple(dims) if len(dims) == len(value.shape) else None


def dimensions(sizes: tuple[int, ...]) -> str:
    """Write sizes as people do: 3x3."""
    return "x".join(map(str, sizes))


def raises_rank(operand: ir.Value, x: ir.Value) -> bool:
    """Tell whether a constant beside x may give the result more dimensions than x has."""
    rank = len(operand.shape or ())
    return rank > 0 and (x.shape is None or rank > len(x.shape))


def is_close(value: float, wanted: float, operand: ir.Value) -> bool:
    """Tell whether a constant equals `wanted` within the precision of its type."""
    half = operand.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    tolerance = 1e-3 if half else 4 * float(np.finfo(np.float32).eps)
    return abs(value - wanted) <= tolerance * abs(wanted)


def new_initializer(op: ir.tape.Tape, match: Match, name: str, array: NDArray[Any]) -> ir.Value:
    """Add an initialiser to the graph of a match, by another name if that one is in use."""
    taken = {value.name for value in op.initializers}
    return op.initializer(ir.tensor(array, name=unused_name(match.graph, name, taken)))


def unused_name(graph: ir.Graph, name: str, taken: Container[str | None] = ()) -> str:
    """Return this name, with a number after it if a tensor of the graph has it already."""
    used = set(graph.initializers) | {value.name for value in graph.inputs}
    used |= {output.name for node in graph for output in node.outputs}
    names = chain([name], (f"{name}.{i}" for i in count(1)))
    return next(n for n in names if n not in used and n not in taken)


def stored(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add an initialiser to a graph, by another name if that one is in use."""
    tensor = ir.tensor(array, name=unused_name(graph, name))
    value = ir.Value(
        name=tensor.name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )
    graph.register_initializer(value)
    return value


def remove_unused(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Remove nodes, listed from last to first, if nothing needs their outputs."""
    for node in nodes:
        needed = any(output.consumers() or output.is_graph_output() for output in node.outputs)
        if node.graph is graph and not needed:
            graph.remove(node, safe=True)


def replaced_initializer(
    op: ir.tape.Tape, match: Match, replaced: ir.Value, array: NDArray[Any]
) -> ir.Value:
    """Add an initialiser in the place of a constant that the match uses.

    It takes over the name if nothing else uses the old tensor: `features.4.se.expand.bias` keeps
    its name.
    """
    name = replaced.name or "constant"
    inside = set(match.nodes)
    mine = replaced.is_initializer() and all(user in inside for user in replaced.consumers())
    if mine and not replaced.is_graph_output():
        return op.initializer(ir.tensor(array, name=name))
    return new_initializer(op, match, name, array)


def leaking(nodes: Iterable[ir.Node], inside: Container[ir.Node]) -> str | None:
    """Say which result of these nodes is needed by something that is not `inside`, if any."""
    for node in nodes:
        for output in node.outputs:
            if output.is_graph_output():
                return f"intermediate {output.name!r} is an output of the graph"
            others = [user for user in output.consumers() if user not in inside]
            if others:
                return f"intermediate {output.name!r} is also used by {others[0].name!r}"
    return None


def _replace(
    match: Match,
    build: Callable[[ir.tape.Tape, Match], ir.Value],
    prover: Prover | None,
) -> ProofVerdict | None:
    """Put the replacement in the place of the match, unless the prover is against it."""
    graph, root = match.graph, match.nodes[-1]
    tape = ir.tape.Tape()
    new = build(tape, match)
    verdict = None
    if prover is not None:
        verdict = prover(cut(graph, match.nodes, root.outputs[0], tape, new))
        if not verdict.passed:
            _discard(tape)
            return verdict
    ir.convenience.replace_nodes_and_values(
        graph, root, match.nodes, tape.nodes, [root.outputs[0]], [new]
    )
    for initializer in tape.initializers:
        assert initializer.name is not None
        graph.initializers.pop(initializer.name, None)
        graph.register_initializer(initializer)
    match.index.replaced(match.nodes, tape.nodes)
    return verdict


def _discard(tape: ir.tape.Tape) -> None:
    """Let go of the graph's tensors, so that they do not seem to be used by these nodes."""
    for node in tape.nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _unused(*_: object, **__: object) -> None:
    """Stand in for onnxscript's replacement function, which the driver never calls."""
