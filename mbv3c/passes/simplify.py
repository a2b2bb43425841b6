"""Run onnxsim: infer shapes and fold whatever a fixed input shape makes constant.

Its own fusions stay off: they would do some of our rewrites without saying where, and `optimize`
reports what each rewrite did. A tensor that holds nothing is constant, too (`store_empty`).
"""

from functools import cache

import onnx
import onnxsim
from google.protobuf.message import DecodeError, EncodeError

from mbv3c.errors import ModelError
from mbv3c.passes.report import PassReport
from mbv3c.passes.spell_normalization import spell_normalization
from mbv3c.passes.store_empty import store_empty
from mbv3c.steps import step

NAME = "simplify"


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Fold constants and infer shapes.

    Raises:
        ModelError: onnxsim cannot process the graph.
    """
    before = len(model.graph.node)
    try:
        accepted = _without_deprecated(model)
        _import_schemas()
        simplified = first = _folded(accepted)
        while (filled := store_empty(simplified)) is not simplified:
            simplified = _folded(filled)
    except (DecodeError, EncodeError) as error:
        raise ModelError(
            "the model becomes larger than 2 GiB when what is constant in it is folded, which is "
            "more than ONNX's tools take: leave out of the export what makes tensors so large"
        ) from error
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"onnxsim cannot simplify the model: {error}") from error
    kept = {output for node in simplified.graph.node for output in node.output}
    folded = tuple(
        node.name or node.op_type for node in model.graph.node if kept.isdisjoint(node.output)
    )
    after = len(simplified.graph.node)
    changed = after != before or simplified is not first
    report = PassReport(NAME, folded if changed else (), (), before, after, changed)
    return (simplified if changed else model), report


@cache
def _import_schemas() -> None:
    """Tell onnxsim of the operators that only onnx knows, once: it would compare all each time."""
    onnxsim.import_onnx_schemas()


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    folded: onnx.ModelProto
    with step("folding what is constant in the graph", "onnxsim", model.ByteSize):
        folded, _ = onnxsim.simplify(
            model, perform_optimization=False, skip_fuse_bn=True, import_custom_schemas=False
        )
    return folded


def _without_deprecated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write GroupNormalization of opset 18 to 20 otherwise: onnxsim refuses what is deprecated."""
    if not any(node.op_type == "GroupNormalization" for node in model.graph.node):
        return model
    return spell_normalization(model)[0]
