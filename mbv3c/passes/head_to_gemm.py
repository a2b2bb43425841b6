"""Compute the head as matrix products, as our own networks do.

    Conv(x, w, b) → HardSwish → Conv → … → Flatten   ⇒   Flatten(x) → Gemm(w, b) → HardSwish → …

where x holds one pixel: the last layers of timm and Keras, which are 1x1 convolutions after the
pool. Squeeze-and-excite, which returns to an image, keeps its convolutions.
"""

import numpy as np
import onnx
import onnx_ir as ir

from mbv3c.passes.chains import ELEMENTWISE, Chain, rewrite_chains
from mbv3c.passes.report import PassReport
from mbv3c.passes.rewrite import constant, dimensions, leaking, static, stored

NAME = "head_to_gemm"

_ENDS = ("Flatten", "Reshape", "Squeeze")


def head_to_gemm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Replace 1x1 convolutions of one pixel before a Flatten by Gemms after it."""
    return rewrite_chains(
        model,
        NAME,
        ends=_ENDS,
        chain_before=_chain_before,
        refusal=_not_convertible,
        convert=_convert,
    )


def _chain_before(node: ir.Node) -> Chain:
    chain = _chain(node) if _flattens_pixel(node) else []
    return chain if any(step.op_type == "Conv" for step in chain) else []


def _flattens_pixel(node: ir.Node) -> bool:
    if node.op_type not in _ENDS or node.inputs[0] is None:
        return False
    image, flat = static(node.inputs[0]), static(node.outputs[0])
    return flat is not None and len(flat) == 2 and image == (*flat, 1, 1)


def _chain(last: ir.Node) -> Chain:
    """Return the nodes that compute on the one pixel, in order, and the Flatten after them."""
    chain = [last]
    while True:
        source = chain[0].inputs[0]
        producer = source.producer() if source is not None else None
        if producer is None or producer.op_type not in (*ELEMENTWISE, "Conv"):
            break
        shape = producer.inputs[0] and static(producer.inputs[0])
        if not shape or shape[2:] != (1, 1):
            break
        chain.insert(0, producer)
    while chain[0].op_type in ELEMENTWISE:
        del chain[0]  # what stands before the first convolution may stay there
    return chain


def _not_convertible(step: ir.Node, chain: Chain) -> str | None:
    """Say why a step of the chain cannot become one on vectors, if it cannot."""
    reason = None if step is chain[-1] else leaking([step], chain)
    if reason is not None or step.op_type != "Conv":
        return reason
    for operand in step.inputs[1:]:
        if operand is not None and constant(operand) is None:
            return f"{operand.name!r} of Conv is not a constant"
    if step.attributes.get_int("group", 1) != 1:
        return f"Conv has {step.attributes.get_int('group', 1)} groups"
    weight = step.inputs[1]
    assert weight is not None
    kernel = np.asarray(constant(weight)).shape[2:]
    if kernel != (1, 1):
        return f"Conv's kernel is {dimensions(kernel)}, not 1x1"
    return None


def _convert(graph: ir.Graph, chain: Chain) -> None:
    flatten = chain[-1]
    tape = ir.tape.Tape()
    value = tape.op("Flatten", [chain[0].inputs[0]], {"axis": 1}, name=flatten.name)
    for step in chain[:-1]:
        if step.op_type == "Conv":
            value = tape.op(
                "Gemm", [value, *_parameters(graph, step)], {"transB": 1}, name=step.name
            )
        else:
            operands = [value, *step.inputs[1:]]
            value = tape.op(step.op_type, operands, step.attributes, name=step.name)
    ir.convenience.replace_nodes_and_values(
        graph, flatten, chain, tape.nodes, [flatten.outputs[0]], [value]
    )


def _parameters(graph: ir.Graph, conv: ir.Node) -> list[ir.Value]:
    """Return weight and bias of a 1x1 convolution as those of a Gemm."""
    weight, *bias = [value for value in conv.inputs[1:] if value is not None]
    matrix = np.asarray(constant(weight))
    return [stored(graph, f"{weight.name}.gemm", matrix.reshape(matrix.shape[:2])), *bias]
