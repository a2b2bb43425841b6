"""Bring a model of an old operator set to the one that our own graphs are in.

    opset 6 … 13   ⇒   opset 17

HardSwish exists from opset 14 on. On the way Clip's bounds, Pad's widths and Squeeze's axes turn
from attributes into inputs, so that every pass after this one meets one spelling only.
"""

import onnx
from onnx import version_converter

from mbv3c.passes.report import PassReport, Refusal

NAME = "upgrade_opset"

OLDEST_WITH_HARDSWISH = 14
OPSET = 17
_IR_VERSION = 8  # the ONNX IR version that belongs to opset 17
_FIRST_IR_WITH_DEFAULTS = 4  # before it, every initialiser had to be listed as an input
_DEFAULT_DOMAINS = ("", "ai.onnx")


def upgrade_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Convert to opset 17 where HardSwish would be missing; newer models stay as they are.

    A model that ONNX's converter cannot bring there is refused with the converter's reason.
    """
    before = len(model.graph.node)
    versions = [e.version for e in model.opset_import if e.domain in _DEFAULT_DOMAINS]
    if not versions or versions[0] >= OLDEST_WITH_HARDSWISH:
        return model, PassReport(NAME, (), (), before, before, False)
    try:
        upgraded = version_converter.convert_version(_without_listed_initializers(model), OPSET)
    except (version_converter.ConvertError, RuntimeError) as error:
        reason = f"opset {versions[0]} cannot be converted to {OPSET}: {_reason(error)}"
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


def _without_listed_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose initialisers are constants, where they could be nothing else."""
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


def _reason(error: Exception) -> str:
    """Return what the converter says, without the line of its source that says so."""
    return str(error).strip().rpartition("failed: ")[2]
