"""Write a graph in the operator set that somebody asks for.

    any opset                    ⇒   opset N
    HardSwish(x), N below 14     ⇒   Mul(x, HardSigmoid(x, alpha=1/6, beta=1/2))

This pass is not in `PIPELINE`, which works in opset 14 or newer, and runs only on request.
"""

import re
from functools import cache

import onnx
from onnx import helper, version_converter

from mbv3c.errors import ModelError, UsageError
from mbv3c.passes.fuse_hardsigmoid import ALPHA, BETA
from mbv3c.passes.report import PassReport
from mbv3c.passes.upgrade_opset import (
    DEFAULT_DOMAINS,
    OLDEST_WITH_HARDSWISH,
    converter_reason,
    opset_of,
)

NAME = "convert_opset"

# From opset 11 on Clip and Pad have their constants as inputs, which is how we write them; 18 is
# the last that the passes are tested with.
OPSETS = range(11, 19)

# onnx's converter goes up, and down to 15, but cannot undo most of what 12 to 15 changed. There,
# these operators only got more types, or attributes, which must have their default.
# Source: the operators' version histories in onnx's documentation.
_CONVERTER_GOES_DOWN_TO = 15
_NEW_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "MatMul", "Gemm", "Concat"),
            *("Relu", "Sigmoid", "Clip", "Identity", "Cast", "Flatten", "Transpose", "Pad"),
            *("ReduceMean", "Gather", "MaxPool"),
        ),
        (),
    ),
    "BatchNormalization": ("training_mode",),
    "Reshape": ("allowzero",),
    "Shape": ("start", "end"),
    "Constant": (
        *("value_float", "value_floats", "value_int", "value_ints"),
        *("value_string", "value_strings"),
    ),
}


def check_opset(opset: int) -> None:
    """Refuse an operator set that mbv3c does not write.

    Raises:
        UsageError: `opset` is not in `OPSETS`.
    """
    if opset not in OPSETS:
        raise UsageError(f"--opset {opset}: mbv3c writes opset {OPSETS[0]} to {OPSETS[-1]}")


def convert_opset(model: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, PassReport]:
    """Convert a model; a HardSwish that the operator set lacks is spelled out.

    Raises:
        UsageError: mbv3c does not write this operator set.
        ModelError: an operator cannot be written in it; the message names the operator, and the
            lowest opset that works.
    """
    check_opset(opset)
    before = len(model.graph.node)
    if opset_of(model) == opset:
        return model, PassReport(NAME, (), (), before, before, False)
    converted, names = _converted(model, opset)
    if isinstance(converted, str):
        working = (n for n in OPSETS if n > opset and not isinstance(_converted(model, n)[0], str))
        lowest = next(working, None)
        advice = (
            "no other works either" if lowest is None else f"the lowest that works is {lowest}"
        )
        raise ModelError(f"the model cannot be written in opset {opset}: {converted}; {advice}")
    return converted, PassReport(
        NAME, tuple(names), (), before, len(converted.graph.node), changed=True
    )


def _without_hardswish(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    names = []
    for node in model.graph.node:
        if node.op_type != "HardSwish" or node.domain not in DEFAULT_DOMAINS:
            copy.graph.node.append(node)
            continue
        (x,), (y,) = node.input, node.output
        gate = f"{y}.hardsigmoid"
        name = f"{node.name}.hardsigmoid" if node.name else None
        copy.graph.node.extend(
            [
                helper.make_node("HardSigmoid", [x], [gate], name, alpha=ALPHA, beta=BETA),
                helper.make_node("Mul", [x, gate], [y], node.name),
            ]
        )
        names.append(node.name or node.op_type)
    return copy, names


def _converted(model: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto | str, list[str]]:
    """Return the model in another opset, or why there is none; and what was spelled out."""
    names: list[str] = []
    if opset < OLDEST_WITH_HARDSWISH:
        model, names = _without_hardswish(model)
    return _relabelled_or_converted(model, opset), names


def _relabelled_or_converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | str:
    for node in model.graph.node:
        first = _first_opsets().get(node.op_type, 1) if node.domain in DEFAULT_DOMAINS else 1
        if first > opset:
            return f"{_named(node)} exists from opset {first} on"
    try:
        stop = max(opset, _CONVERTER_GOES_DOWN_TO) if opset_of(model) > opset else opset
        converted = model
        if opset_of(model) > stop or stop == opset:
            converted = version_converter.convert_version(model, stop)
        if stop != opset:
            changed = _changed(converted, opset)
            if changed:
                return changed
            converted = _relabelled(converted, opset)
        onnx.checker.check_model(converted, full_check=True)
    except (version_converter.ConvertError, RuntimeError, onnx.checker.ValidationError) as error:
        return _reason(model, str(error))
    return converted


def _changed(model: onnx.ModelProto, opset: int) -> str:
    """Name the first node that would mean something else in another opset, if any."""
    for node in model.graph.node:
        if node.domain not in DEFAULT_DOMAINS or not onnx.defs.has(node.op_type):
            continue
        if onnx.defs.get_schema(node.op_type, opset_of(model)).since_version <= opset:
            continue
        new = _NEW_ATTRIBUTES.get(node.op_type)
        if new is None or any(
            a.name in new and helper.get_attribute_value(a) != 0 for a in node.attribute
        ):
            return f"there is no conversion for {_named(node)}"
    return ""


def _relabelled(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy labelled with another opset, without newer attributes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for entry in copy.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            entry.version = opset
    for node in copy.graph.node:
        dropped = _NEW_ATTRIBUTES.get(node.op_type, ())
        kept = [a for a in node.attribute if a.name not in dropped]
        del node.attribute[:]
        node.attribute.extend(kept)
    return copy


@cache
def _first_opsets() -> dict[str, int]:
    """Return the opset that introduced each operator."""
    schemas = onnx.defs.get_all_schemas_with_history()
    newest_first = sorted(schemas, key=lambda schema: schema.since_version, reverse=True)
    return {schema.name: schema.since_version for schema in newest_first if schema.domain == ""}


def _reason(model: onnx.ModelProto, message: str) -> str:
    """Name the node that onnx's converter complains about, or else say what the converter says."""
    for node in model.graph.node:
        if re.search(rf"\b(for|of|version) {node.op_type}\b", message):
            return f"there is no conversion for {_named(node)}"
    return converter_reason(message)


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} (node {node.name or '→ ' + node.output[0]!r})"
