"""Convert a model of an old operator set to the one that our own graphs are in.

    opset 6 … 13   ⇒   opset 17

HardSwish exists from opset 14 on. Clip's bounds, Pad's widths and Squeeze's axes turn from
attributes into inputs, so that later passes meet one spelling only.

Upsample (opset 7 to 9) and the Resize of opset 10 do not say where the pixels of the output lie.
onnxruntime puts them at the whole pixels of the input ("asymmetric"); of the nearest pixels it
takes the one before when it enlarges and the one behind when it reduces. ONNX's converter leaves
that to the defaults of opset 11, which are others. So these nodes are written anew.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference, version_converter

from mbv3c.graphs.constants import constants_of
from mbv3c.passes.names import FreeNames, graphs_of, nodes_in
from mbv3c.passes.report import PassReport, Refusal

NAME = "upgrade_opset"

OLDEST_WITH_HARDSWISH = 14
OPSET = 17
_IR_VERSION = 8  # the ONNX IR version that belongs to opset 17
FIRST_IR_WITH_DEFAULTS = 4  # before it, every initialiser had to be listed as an input
DEFAULT_DOMAINS = ("", "ai.onnx")
_RESIZING = ("Upsample", "Resize")
_FIRST_WITH_PLACES = 11  # of Resize: from then on it says where the pixels of the output lie
_NO_SCALES = (
    "its scales are computed when the model runs, or it is in a branch: the nearest pixel is not "
    "known; fix the input's shape in the export, or export it with opset 11 or newer"
)


def upgrade_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Convert a model without HardSwish to opset 17; newer models stay as they are.

    A model that ONNX's converter cannot convert is refused with the converter's reason.
    """
    before, opset = len(model.graph.node), opset_of(model)
    if not 0 < opset < OLDEST_WITH_HARDSWISH:
        return model, PassReport(NAME, (), (), before, before, False)
    try:
        upgraded = version_converter.convert_version(_without_listed_initializers(model), OPSET)
    except (version_converter.ConvertError, RuntimeError) as error:
        reason = f"opset {opset} cannot be converted to {OPSET}: {converter_reason(str(error))}"
        return _refused(model, model.graph.name or "graph", reason)
    if opset < _FIRST_WITH_PLACES:
        unknown = _place_pixels(model, upgraded)
        if unknown is not None:
            return _refused(model, unknown.name or unknown.op_type, _NO_SCALES)
    upgraded.ir_version = max(model.ir_version, _IR_VERSION)
    old = {node.output[0]: node for node in model.graph.node}
    respelled = tuple(
        node.name or node.op_type
        for node in upgraded.graph.node
        if (node.op_type in _RESIZING and opset < _FIRST_WITH_PLACES)
        or (node.output[0] in old and _spelling(node) != _spelling(old[node.output[0]]))
    )
    after = len(upgraded.graph.node)
    return upgraded, PassReport(NAME, respelled, (), before, after, True)


def _refused(model: onnx.ModelProto, node: str, reason: str) -> tuple[onnx.ModelProto, PassReport]:
    before = len(model.graph.node)
    return model, PassReport(NAME, (), (Refusal(node, reason),), before, before, False)


def _place_pixels(model: onnx.ModelProto, upgraded: onnx.ModelProto) -> onnx.NodeProto | None:
    """Write the resizing nodes of an old model into the new one; return one that cannot be."""
    old: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type in _RESIZING]
    for node in model.graph.node:
        for inner in graphs_of(node):
            nested = [each for each in nodes_in(inner) if each.op_type in _RESIZING]
            if nested:
                return nested[0]
    if len(old) != sum(node.op_type in _RESIZING for node in upgraded.graph.node):
        return old[0]
    constants = constants_of(model.graph)
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    # The converter renames tensors and keeps the order of nodes.
    remaining, nodes = iter(old), list[onnx.NodeProto]()
    free = FreeNames(upgraded.graph)
    for node in upgraded.graph.node:
        if node.op_type not in _RESIZING:
            nodes.append(node)
            continue
        given = next(remaining)
        scales = _scales(given, constants, shapes)
        if scales is None:
            return given
        nodes.extend(_resize_nodes(given, scales, node, upgraded.graph, free))
    del upgraded.graph.node[:]
    upgraded.graph.node.extend(nodes)
    return None


def _scales(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    shapes: dict[str, list[int]],
) -> list[float] | None:
    """Return the factor of each axis, or None where neither scales nor shapes tell."""
    for attribute in node.attribute:
        if attribute.name == "scales":
            return [float(scale) for scale in attribute.floats]
    if len(node.input) > 1 and node.input[1] in constants:
        return [float(scale) for scale in numpy_helper.to_array(constants[node.input[1]])]
    before, after = (shapes.get(name, []) for name in (node.input[0], node.output[0]))
    if not before or len(before) != len(after) or not all((*before, *after)):
        return None
    return [big / small for big, small in zip(after, before, strict=True)]


def _resize_nodes(
    old: onnx.NodeProto,
    scales: list[float],
    node: onnx.NodeProto,
    graph: onnx.GraphProto,
    free: FreeNames,
) -> Iterator[onnx.NodeProto]:
    """Spell an old node in opset 11 and later, between the tensors of `node`.

    One that enlarges on one axis and reduces on another takes a Resize for each rounding.
    """
    modes = [attribute.s.decode() for attribute in old.attribute if attribute.name == "mode"]
    mode = (modes or ["nearest"])[0]
    parts = {"floor": [scale if scale >= 1 else 1.0 for scale in scales]}
    if mode == "nearest":
        parts["ceil"] = [scale if scale < 1 else 1.0 for scale in scales]
    else:
        parts["floor"] = scales
    busy = [(rule, part) for rule, part in parts.items() if any(scale != 1 for scale in part)]
    busy = busy or [("floor", scales)]
    x = node.input[0]
    for position, (rule, part) in enumerate(busy):
        last = position == len(busy) - 1
        y = node.output[0] if last else free.take(f"{node.output[0]}.{rule}")
        factors = numpy_helper.from_array(np.array(part, np.float32), free.take(f"{y}.scales"))
        graph.initializer.append(factors)
        yield helper.make_node(
            "Resize",
            [x, "", factors.name],
            [y],
            node.name if last else f"{node.name or y}.{rule}",
            mode="linear" if mode == "bilinear" else mode,
            coordinate_transformation_mode="asymmetric",
            nearest_mode=rule,
        )
        x = y


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of a model's default operator set; 0 if the model has none."""
    versions = (e.version for e in model.opset_import if e.domain in DEFAULT_DOMAINS)
    return next(versions, 0)


def converter_reason(message: str) -> str:
    """Return what ONNX's converter says, without the line of its source that says so."""
    return message.strip().rpartition("failed: ")[2]


def _without_listed_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without initialisers among the inputs, where old IR versions demand them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if model.ir_version < FIRST_IR_WITH_DEFAULTS:
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        del copy.graph.input[:]
        copy.graph.input.extend(inputs)
        copy.ir_version = FIRST_IR_WITH_DEFAULTS
    return copy


def _spelling(node: onnx.NodeProto) -> tuple[str, int, frozenset[str]]:
    return node.op_type, len(node.input), frozenset(a.name for a in node.attribute)
