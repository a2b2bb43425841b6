"""Convert a model of an old operator set to the one that our own graphs are in.

    opset 6 … 13   ⇒   opset 17

HardSwish exists from opset 14 on. Clip's bounds, Pad's widths and Squeeze's axes turn from
attributes into inputs, so that later passes meet one spelling only.
"""

import onnx
from onnx import version_converter

from mbv3c.passes.report import PassReport, Refusal

NAME = "upgrade_opset"

OLDEST_WITH_HARDSWISH = 14
OPSET = 17
_IR_VERSION = 8  # the ONNX IR version that belongs to opset 17
_FIRST_IR_WITH_DEFAULTS = 4  # before it, every initialiser had to be listed as an input
DEFAULT_DOMAINS = ("", "ai.onnx")


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
        refusal = Refusal(model.graph.name or "graph", reason)
        return model, PassReport(NAME, (), (refusal,), before, before, False)
    upgraded.ir_version = max(model.ir_version, _IR_VERSION)
    old = {node.output[0]: node for node in model.graph.node}
    respelled = tuple(
        node.name or node.op_type
        for node in upgraded.graph.node
        if node.output[0] in old and _spelling(node) != _spelling(old[node.output[0]])
    )
    after = len(upgraded.graph.node)
    return upgraded, PassReport(NAME, respelled, (), before, after, True)


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
    if model.ir_version < _FIRST_IR_WITH_DEFAULTS:
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        del copy.graph.input[:]
        copy.graph.input.extend(inputs)
        copy.ir_version = _FIRST_IR_WITH_DEFAULTS
    return copy


def _spelling(node: onnx.NodeProto) -> tuple[str, int, frozenset[str]]:
    return node.op_type, len(node.input), frozenset(a.name for a in node.attribute)
