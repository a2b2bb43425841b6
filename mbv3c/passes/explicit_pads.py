"""Write out the padding that an operator chooses by itself.

    Conv(x, auto_pad=SAME_UPPER)   ⇒   Conv(x, pads=p), with the larger half at the end
    Conv(x, auto_pad=SAME_LOWER)   ⇒   Conv(x, pads=p), with the larger half at the beginning
    Conv(x, auto_pad=VALID)        ⇒   Conv(x)

AveragePool and MaxPool are treated like Conv. Later passes meet `pads` only. Source: the ONNX
operator specification.
"""

import onnx
import onnx_ir as ir
from onnx import shape_inference

from mbv3c.graphs.spec import pads
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.rewrite import static, unchanged

NAME = "explicit_pads"

_PADDED = ("Conv", "AveragePool", "MaxPool")


def explicit_pads(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Replace `auto_pad` by the pads that it means for the shape at hand."""
    if all(one.name != "auto_pad" for node in model.graph.node for one in node.attribute):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    matched, refused = [], []
    for node in graph:
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        if node.op_type not in _PADDED or node.domain or mode == "NOTSET":
            continue
        name = node.name or node.op_type
        reason = _not_computable(node) if mode != "VALID" else None
        if reason is not None:
            refused.append(Refusal(name, reason))
            continue
        if mode != "VALID":
            node.attributes["pads"] = ir.AttrInt64s(
                "pads", _same_pads(node, lower=mode == "SAME_LOWER")
            )
        del node.attributes["auto_pad"]
        matched.append(name)
    size = len(graph)
    report = PassReport(NAME, tuple(matched), tuple(refused), size, size, changed=bool(matched))
    return (ir.to_proto(rewritten) if matched else model), report


def _not_computable(node: ir.Node) -> str | None:
    """Say why the padding cannot be computed, if it cannot."""
    if not _sizes(node):
        return f"the size of {node.op_type}'s input is not known, so that its padding is not"
    if not _kernel(node):
        return f"the size of {node.op_type}'s kernel is not known"
    if node.op_type != "Conv" and any(
        each > 1 for each in node.attributes.get_ints("dilations", ())
    ):
        return f"onnxruntime pads a dilated {node.op_type} otherwise than ONNX says"
    if node.attributes.get_int("ceil_mode", 0):
        return f"{node.op_type} rounds its output size up"
    return None


def _same_pads(node: ir.Node, *, lower: bool) -> list[int]:
    """Return the zeros before and after each dimension that make ceil(size / stride) remain."""
    sizes, kernel = _sizes(node), _kernel(node)
    ones = (1,) * len(sizes)
    strides = node.attributes.get_ints("strides", ones)
    dilations = node.attributes.get_ints("dilations", ones)
    axes = zip(sizes, kernel, strides, dilations, strict=True)
    less, more = zip(*(pads("same", *axis) for axis in axes), strict=True)
    return [*more, *less] if lower else [*less, *more]


def _sizes(node: ir.Node) -> tuple[int, ...]:
    shape = node.inputs[0] and static(node.inputs[0])
    return shape[2:] if shape else ()


def _kernel(node: ir.Node) -> tuple[int, ...]:
    kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
    if kernel or node.op_type != "Conv":
        return kernel
    shape = node.inputs[1] and static(node.inputs[1])
    return shape[2:] if shape else ()
