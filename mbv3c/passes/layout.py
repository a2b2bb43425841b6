"""Transposes as layouts: what lies above one, and what they would cost."""

import numpy as np
import onnx_ir as ir

from mbv3c.passes.rewrite import constant, static, stored

Perm = tuple[int, ...]


def moves_only_ones(transpose: ir.Node, shape: tuple[int, ...]) -> bool:
    """Tell whether the dimensions of more than one element stay in their order."""
    perm = transpose.attributes.get_ints("perm", tuple(reversed(range(len(shape)))))
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def count_moving(graph: ir.Graph) -> int:
    """Count the Transposes that move data."""
    count = 0
    for node in graph:
        shape = node.inputs and node.inputs[0] and static(node.inputs[0])
        if node.op_type == "Transpose" and not (shape and moves_only_ones(node, shape)):
            count += 1
    return count


def lay_out(graph: ir.Graph, operand: ir.Value, perm: Perm) -> ir.Value | None:
    """Return an operand in the layout before a Transpose by `perm`, or None if data would move."""
    array = constant(operand)
    inverse = tuple(int(axis) for axis in np.argsort(perm))
    if array is not None:
        if array.size == 1 and array.ndim <= len(perm):
            return operand
        if array.ndim > len(perm):
            return None
        full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape).transpose(inverse)
        return stored(graph, f"{operand.name}.nchw", np.ascontiguousarray(full))
    shape = static(operand)
    if shape is None or len(shape) != len(perm) or sum(size > 1 for size in shape) > 1:
        return None
    # At most one dimension holds more than one element: this Transpose moves nothing.
    transpose = ir.node("Transpose", [operand], {"perm": inverse})
    transpose.outputs[0].type = operand.type
    transpose.outputs[0].shape = ir.Shape(tuple(shape[axis] for axis in inverse))
    producer = operand.producer()
    if producer is None:
        graph.insert_before(graph[0], transpose)
    else:
        graph.insert_after(producer, transpose)
    return transpose.outputs[0]


def perm_of(value: ir.Value) -> Perm | None:
    """Return the permutation by which a Transpose makes this tensor, or None."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain or value.shape is None:
        return None
    return tuple(node.attributes.get_ints("perm", tuple(reversed(range(len(value.shape))))))


def untransposed(value: ir.Value) -> ir.Value:
    """Return the input of the Transpose that makes this tensor."""
    node = value.producer()
    assert node is not None
    assert node.inputs[0] is not None
    return node.inputs[0]
