"""The order and the names of a graph's nodes, kept while a pass changes it."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import onnx_ir as ir


class NodeIndex:
    """The order and the names of a graph's nodes, while matches are replaced one by one.

    Asking the graph itself, for every match, would take time with the square of its nodes.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._places: dict[ir.Node, tuple[int, int]] = {
            node: (place, 0) for place, node in enumerate(graph)
        }
        self._names = Counter(node.name for node in graph)

    def in_order(self, nodes: Iterable[ir.Node]) -> tuple[ir.Node, ...]:
        """Return nodes of the graph as they stand in it."""
        inside = (node for node in nodes if node.graph is self.graph)
        return tuple(sorted(inside, key=self._places.__getitem__))

    def others_are_called(self, name: str, nodes: Collection[ir.Node]) -> bool:
        """Say whether the graph has a node of this name beside the given ones."""
        return self._names[name] > sum(node.name == name for node in nodes)

    def replaced(self, old: Sequence[ir.Node], new: Iterable[ir.Node]) -> None:
        """Take note that new nodes stand where the last of the old ones was."""
        self._names.subtract(node.name for node in old)
        place, _ = self._places[old[-1]]
        for number, node in enumerate(new, 1):
            self._places[node] = (place, number)
            self._names[node.name] += 1
