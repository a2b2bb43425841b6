"""Compute on one pixel with 1x1 convolutions, as the rest of the network does.

    Flatten(x) → Gemm(w, b) → Relu → Gemm → … → Reshape to [N, C, 1, 1]
        ⇒   Conv(x, w, b) → Relu → Conv → …

This is squeeze-and-excite spelled with Linear layers. The classifier, which does not return to an
image, keeps its Gemms.
"""

import numpy as np
import onnx
import onnx_ir as ir

from mbv3c.passes.chains import ELEMENTWISE, Chain, rewrite_chains
from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.rewrite import constant, dimensions, static, stored

NAME = "gemm_to_conv"
REMOVES = Removal(("Gemm", "MatMul"), "on one pixel, from a Flatten to a Reshape back")

_ENDS = ("Reshape", "Unsqueeze")


def gemm_to_conv(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Replace Gemm and MatMul between a Flatten and a Reshape back by 1x1 convolutions."""
    return rewrite_chains(
        model,
        NAME,
        ends=_ENDS,
        chain_before=_chain_before,
        refusal=_not_convertible,
        convert=_convert,
    )


def _chain_before(node: ir.Node) -> Chain:
    chain = _chain(node) if _makes_pixels(node) else []
    return chain if any(step.op_type in ("Gemm", "MatMul") for step in chain) else []


def _makes_pixels(node: ir.Node) -> bool:
    if node.op_type not in _ENDS or node.inputs[0] is None:
        return False
    flat, image = static(node.inputs[0]), static(node.outputs[0])
    return flat is not None and len(flat) == 2 and image == (*flat, 1, 1)


def _chain(last: ir.Node) -> Chain:
    """Return the nodes from the one that flattened the tensor to the last one, in order."""
    chain = [last]
    while chain[0] is last or chain[0].op_type in (*ELEMENTWISE, "Gemm", "MatMul"):
        source = chain[0].inputs[0]
        producer = source.producer() if source is not None else None
        if producer is None or producer.graph is not last.graph:
            break
        chain.insert(0, producer)
    return chain


def _not_convertible(step: ir.Node, chain: Chain) -> str | None:
    """Say why a step of the chain cannot become one on pixels, if it cannot."""
    output = step.outputs[0]
    first, last = step is chain[0], step is chain[-1]
    if not last and output.is_graph_output():
        return f"intermediate {output.name!r} is an output of the graph"
    if not (first or last) and len(others := output.consumers()) > 1:
        other = next(user for user in others if user not in chain)
        return f"intermediate {output.name!r} is also used by {other.name!r}"
    if first:
        return _not_from_pixels(step)
    if step.op_type == "MatMul":
        return _not_constant(step, 2)
    if step.op_type != "Gemm":
        return None
    numbers = step.attributes
    if numbers.get_float("alpha", 1.0) != 1 or numbers.get_float("beta", 1.0) != 1:
        return "Gemm scales its operands"
    if numbers.get_int("transA", 0):
        return "Gemm transposes its input"
    return _not_constant(step, 3)


def _not_from_pixels(flatten: ir.Node) -> str | None:
    source = flatten.inputs[0] if flatten.inputs else None
    image, flat = source and static(source), static(flatten.outputs[0])
    if flatten.op_type in ("Flatten", "Reshape", "Squeeze") and image and flat:
        if image == (*flat, 1, 1):
            return None
        return f"{flatten.op_type} flattens {dimensions(image)}, which is not one pixel per image"
    return f"{flatten.op_type} does not flatten one pixel per image"


def _not_constant(gemm: ir.Node, operands: int) -> str | None:
    for operand in gemm.inputs[1:operands]:
        if operand is not None and constant(operand) is None:
            return f"{operand.name!r} of {gemm.op_type} is not a constant"
    weight, *bias = [np.asarray(constant(v)) for v in gemm.inputs[1:operands] if v is not None]
    if weight.ndim != 2:
        return f"the weight of {gemm.op_type} is no matrix"
    channels = weight.shape[0 if gemm.attributes.get_int("transB", 0) else 1]
    if any(b.size not in (1, channels) or b.shape[:-1] not in ((), (1,)) for b in bias):
        return f"the bias of {gemm.op_type} is not one number per channel"
    return None


def _convert(graph: ir.Graph, chain: Chain) -> None:
    """Build the chain anew on pixels; the Flatten stays if something else uses it."""
    value = chain[0].inputs[0]
    tape = ir.tape.Tape()
    for step in chain[1:-1]:
        if step.op_type in ELEMENTWISE:
            value = tape.op(
                step.op_type, [value, *step.inputs[1:]], step.attributes, name=step.name
            )
            continue
        operands = [value, *_parameters(graph, step)]
        value = tape.op("Conv", operands, {"kernel_shape": [1, 1]}, name=step.name)
    assert value is not None
    old = chain[1:] if len(chain[0].outputs[0].consumers()) > 1 else chain
    output = chain[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, chain[-1], old, tape.nodes, [output], [value])


def _parameters(graph: ir.Graph, gemm: ir.Node) -> list[ir.Value]:
    """Return weight and bias of a Gemm as those of a 1x1 convolution."""
    operands = [v for v in gemm.inputs[1:] if v is not None]
    weight, *bias = [np.asarray(constant(v)) for v in operands]
    if not gemm.attributes.get_int("transB", 0):
        weight = weight.T
    arrays = [weight.reshape(*weight.shape, 1, 1)]
    arrays += [np.broadcast_to(b.reshape(-1), weight.shape[:1]).copy() for b in bias]
    return [
        stored(graph, f"{old.name}.conv", array)
        for old, array in zip(operands, arrays, strict=True)
    ]
