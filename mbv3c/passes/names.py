"""Names for new tensors and nodes that nothing in a graph has yet."""

from collections import Counter
from collections.abc import Iterator

import onnx


class FreeNames:
    """The names that are still free in a graph and in the graphs within it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = {*names_in(graph)}

    def take(self, name: str) -> str:
        """Return a name like this one that is free, and is no longer."""
        free, number = name, 0
        while free in self._taken:
            number += 1
            free = f"{name}.{number}"
        self._taken.add(free)
        return free


def name_nodes(graph: onnx.GraphProto) -> bool:
    """Give every node a name of its own, in place; return whether any was given.

    Nodes that share a name, or have none, are called after what they make.
    """
    counts = Counter(node.name for node in graph.node)
    named = [node for node in graph.node if not node.name or counts[node.name] > 1]
    taken = {node.name for node in graph.node}
    for node in named:
        name = wanted = f"{node.op_type}_{next(filter(None, node.output), '')}"
        number = 0
        while name in taken:
            number += 1
            name = f"{wanted}.{number}"
        taken.add(name)
        node.name = name
    return bool(named)


def names_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all tensors and nodes of a graph and of the graphs within it."""
    yield from (value.name for value in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (*node.input, *node.output, node.name)
        for inner in graphs_of(node):
            yield from names_in(inner)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def inner_reads(graph: onnx.GraphProto) -> set[str]:
    """Return the names that the graphs within a graph read; some may be their own."""
    return {name for node in graph.node for inner in graphs_of(node) for name in names_in(inner)}


def nodes_in(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from nodes_in(inner)
