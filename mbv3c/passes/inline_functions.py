"""Put the bodies of functions in place of every call.

    [functions: f(a) = Mul(a, HardSigmoid(a))]   f(x)   ⇒   Mul(x, HardSigmoid(x))
    Celu(x), Swish(x), Attention(q, k, v), …            ⇒   the operators that ONNX defines them by

Exporters write modules as functions (torch's second exporter with `export_modules_as_functions`,
onnxscript). Functions may call each other; ONNX's own inliner takes them all apart, and converts
those of another opset than the model's. Source: ONNX IR, "Functions"; `onnx.inliner`.
"""

from contextlib import suppress

import onnx
from onnx import helper, inliner, shape_inference

from mbv3c.passes.names import graphs_of
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.upgrade_opset import opset_of

NAME = "inline_functions"

# Operators that ONNX defines as functions, and TVM does not import: its Attention is
# that of onnxruntime.
_DEFINED_BY_OTHERS = ("Celu", "Swish", "Attention", "RotaryEmbedding", "CenterCropPad")


def inline_functions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Inline every call of a model's own functions, and what only functions of ONNX define."""
    before = len(model.graph.node)
    own = {(function.domain, function.name) for function in model.functions}
    taken = [("", name) for name in _DEFINED_BY_OTHERS]
    called = tuple(
        node.name or node.op_type
        for node in model.graph.node
        if (node.domain, node.op_type) in (*own, *taken)
    )
    if not own and not called:
        return model, PassReport(NAME, (), (), before, before, False)
    try:
        inlined = inliner.inline_local_functions(_with_defaults(model), convert_version=True)
        if any(node.op_type in _DEFINED_BY_OTHERS for node in inlined.graph.node):
            typed = _with_types(inlined)
            inlined = inliner.inline_selected_functions(typed, taken, inline_schema_functions=True)
    except RuntimeError as error:
        refusal = Refusal(model.graph.name or "graph", f"ONNX cannot inline it: {error}")
        return model, PassReport(NAME, (), (refusal,), before, before, False)
    return inlined, PassReport(NAME, called, (), before, len(inlined.graph.node), True)


def _with_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which calls say the attributes that they leave to a default."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    defaults = {
        (function.domain, function.name): list(function.attribute_proto)
        for function in copy.functions
    } | _defaults_of_onnx(opset_of(model))
    bodies = [copy.graph.node, *(function.node for function in copy.functions)]
    while bodies:
        for node in bodies.pop():
            given = {attribute.name for attribute in node.attribute}
            left = defaults.get((node.domain, node.op_type), ())
            node.attribute.extend(each for each in left if each.name not in given)
            bodies.extend(inner.node for inner in graphs_of(node))
    return copy


def _defaults_of_onnx(opset: int) -> dict[tuple[str, str], list[onnx.AttributeProto]]:
    """Return the defaults that ONNX gives attributes of operators which are defined by others."""
    defaults = {}
    for name in _DEFINED_BY_OTHERS:
        with suppress(onnx.defs.SchemaError):  # this opset has no such operator
            schema = onnx.defs.get_schema(name, opset)
            values = [each.default_value for each in schema.attributes.values()]
            defaults["", name] = [each for each in values if each.type]
    return defaults


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that gives the type of every tensor, also of the stored ones."""
    typed = shape_inference.infer_shapes(model)
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in typed.graph.initializer
    )
    return typed
