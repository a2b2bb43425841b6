"""Which block of a network each node belongs to, read off the graph and not off names.

    stem │ (expansion) → depthwise → … → projection │ … │ head

A block begins with the convolution whose channels only its depthwise convolution reads, and ends
before the next one begins; the last ends with its projection, and the sum after it.
"""

from collections.abc import Iterator

import onnx

from mbv3c.costs.questions import Question

STEM, HEAD = "stem", "head"
_CHANNELS, _IMAGE = 1, 4


def blocks_of(question: Question) -> dict[str, str]:
    """Return the block of every node, by the node's name, or "→ OUTPUT" of one without.

    Empty for a graph without depthwise convolutions.
    """
    nodes = list(question.model.graph.node)
    starts = sorted(set(_starts(nodes, question)))
    if not starts:
        return {}
    end = _end(nodes, starts[-1], question)
    found = {}
    for at, node in enumerate(nodes):
        number = sum(start <= at for start in starts)
        title = STEM if number == 0 else HEAD if at > end else f"block {number}"
        found[node.name or f"→ {node.output[0]}"] = title
    return found


def _starts(nodes: list[onnx.NodeProto], question: Question) -> Iterator[int]:
    makers = {name: at for at, node in enumerate(nodes) for name in node.output}
    for at, node in enumerate(nodes):
        if not _is_depthwise(node, question):
            continue
        before = makers.get(node.input[0])
        while before is not None and nodes[before].op_type != "Conv":
            computed = [makers[name] for name in nodes[before].input if name in makers]
            same = question.shapes.get(nodes[before].input[0]) == question.shapes.get(
                nodes[before].output[0]
            )
            before = computed[0] if computed and same else None
        follows = before is not None and _is_pointwise(nodes[before], question)
        own = follows and not _reads_elsewhere(nodes, before, at, question)
        yield before if own and before is not None else at


def _reads_elsewhere(
    nodes: list[onnx.NodeProto], start: int | None, end: int, question: Question
) -> bool:
    """Say whether what a node makes is also read by something that is no part of its block."""
    assert start is not None
    made = set(nodes[start].output)
    for node in nodes[start + 1 :]:
        if not made & set(node.input):
            continue
        if node.op_type == "Conv":
            if node is not nodes[end] and node.output[0] not in nodes[end].output:
                return True
            break
        made.update(node.output)
    return False


def _end(nodes: list[onnx.NodeProto], start: int, question: Question) -> int:
    """Return the last node of the last block: its projection, and the sum after it."""
    seen = False
    for at in range(start, len(nodes)):
        if _is_depthwise(nodes[at], question):
            seen = True
            continue
        shape = question.shapes.get(nodes[at].input[0], ())
        if not seen or not _is_pointwise(nodes[at], question) or len(shape) != _IMAGE:
            continue
        if _is_gate(nodes, at, question):
            continue
        result = nodes[at].output[0]
        for after in range(at + 1, len(nodes)):
            if result not in nodes[after].input:
                continue
            if nodes[after].op_type == "BatchNormalization":
                result, at = nodes[after].output[0], after
            elif nodes[after].op_type == "Add" and _joins(nodes[after], question):
                return after
        return at
    return len(nodes) - 1


def _is_gate(nodes: list[onnx.NodeProto], at: int, question: Question) -> bool:
    """Say whether a pointwise convolution is one of a squeeze-and-excite branch."""
    makers = {name: node for node in nodes for name in node.output}
    node: onnx.NodeProto | None = nodes[at]
    while node is not None and node.op_type not in ("GlobalAveragePool", "ReduceMean"):
        if node.op_type == "Mul" and _joins(node, question):
            return False
        if node is not nodes[at] and _is_depthwise(node, question):
            return False
        node = next((makers[name] for name in node.input if name in makers), None)
    return node is not None


def _joins(node: onnx.NodeProto, question: Question) -> bool:
    """Say whether a node has two computed operands."""
    stored = {tensor.name for tensor in question.model.graph.initializer}
    shapes = [question.shapes.get(name, ()) for name in node.input if name not in stored]
    return len([shape for shape in shapes if len(shape) == _IMAGE]) > 1


def _is_depthwise(node: onnx.NodeProto, question: Question) -> bool:
    return node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)


def _is_pointwise(node: onnx.NodeProto, question: Question) -> bool:
    weights = question.shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
    return node.op_type == "Conv" and weights[2:] == (1, 1) and not _is_depthwise(node, question)
