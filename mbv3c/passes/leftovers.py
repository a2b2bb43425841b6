"""Which pass could have removed a node, and why it is still there."""

from collections.abc import Iterator, Sequence

import onnx

from mbv3c.passes import PIPELINE
from mbv3c.passes.drop_noops import NAME as DROP_NOOPS
from mbv3c.passes.drop_noops import REMOVES as NOOPS
from mbv3c.passes.fold_control_flow import NAME as FOLD_CONTROL_FLOW
from mbv3c.passes.fold_control_flow import REMOVES as CONTROL_FLOW
from mbv3c.passes.gemm_to_conv import NAME as GEMM_TO_CONV
from mbv3c.passes.gemm_to_conv import REMOVES as GEMMS
from mbv3c.passes.merge_reshapes import NAME as MERGE_RESHAPES
from mbv3c.passes.merge_reshapes import REMOVES as RESHAPES
from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.rewrite import Rewrite
from mbv3c.passes.simplify import NAME as SIMPLIFY
from mbv3c.passes.sink_transposes import NAME as SINK_TRANSPOSES
from mbv3c.passes.sink_transposes import REMOVES as TRANSPOSES
from mbv3c.passes.spell_missing import NAME as SPELL_MISSING
from mbv3c.passes.spell_missing import REMOVES as MISSING
from mbv3c.passes.spell_normalization import NAME as SPELL_NORMALIZATION
from mbv3c.passes.spell_normalization import REMOVES as NORMALIZATIONS
from mbv3c.passes.spell_resize import NAME as SPELL_RESIZE
from mbv3c.passes.spell_resize import REMOVES as RESIZES
from mbv3c.passes.spell_topk import NAME as SPELL_TOPK
from mbv3c.passes.spell_topk import REMOVES as TOPK
from mbv3c.passes.undo_fusions import DOMAIN
from mbv3c.passes.unroll_recurrent import NAME as UNROLL_RECURRENT
from mbv3c.passes.unroll_recurrent import REMOVES as RECURRENT
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS

REMOVES: dict[str, Removal] = {
    FOLD_CONTROL_FLOW: CONTROL_FLOW,
    SPELL_RESIZE: RESIZES,
    SPELL_TOPK: TOPK,
    SPELL_NORMALIZATION: NORMALIZATIONS,
    SPELL_MISSING: MISSING,
    UNROLL_RECURRENT: RECURRENT,
    DROP_NOOPS: NOOPS,
    SINK_TRANSPOSES: TRANSPOSES,
    MERGE_RESHAPES: RESHAPES,
    GEMM_TO_CONV: GEMMS,
    **{rewrite.name: rewrite.removes for rewrite in PIPELINE if isinstance(rewrite, Rewrite)},
}


_NO_REWRITE = "no rewrite takes it apart; write it in other operators, or end the export before it"

_OF_ONNXRUNTIME = (
    "it is onnxruntime's own, and no rewrite takes it apart; give the model as it was before "
    "onnxruntime optimised it"
)


def why_left(
    model: onnx.ModelProto, positions: Sequence[int], reports: Sequence[PassReport]
) -> list[str]:
    """Say which pass could have removed nodes that a rewritten graph still has, and why none did.

    Args:
        model: the rewritten model.
        positions: positions of the nodes in its graph.
        reports: reports of the passes that ran.

    Returns:
        Lines for people; nodes of one operator and with equal reasons share a line.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    lines: dict[tuple[str, str], list[str]] = {}
    for position in positions:
        node = model.graph.node[position]
        no_rewrite = _OF_ONNXRUNTIME if node.domain == DOMAIN else _NO_REWRITE
        why = "; ".join(_reasons(node, constants, reports)) or no_rewrite
        name = node.name or f"→ {next(filter(None, node.output), '')}"
        lines.setdefault((node.op_type, why), []).append(name)
    return [f"{op_type} {', '.join(names)}: {why}" for (op_type, why), names in lines.items()]


def _reasons(
    node: onnx.NodeProto, constants: set[str], reports: Sequence[PassReport]
) -> Iterator[str]:
    refusals = {
        report.name: refusal.reason
        for report in reports
        for refusal in report.refused
        if refusal.node in ((node.name,) if node.name else tuple(node.output))
    }
    if node.domain not in DEFAULT_DOMAINS or node.op_type.startswith("QLinear"):
        yield from (f"{name} refused it: {reason}" for name, reason in refusals.items())
        return
    for name, removal in REMOVES.items():
        if node.op_type not in removal.operators:
            continue
        if name in refusals:
            yield f"{name} refused it: {refusals[name]}"
        else:
            yield f"{name} removes such nodes only {removal.where}"
    computed = [source for source in node.input if source and source not in constants]
    if computed and any(node.op_type in removal.operators for removal in REMOVES.values()):
        yield f"{SIMPLIFY} removes what needs constants only, and {computed[0]!r} is no constant"
    elif node.input and not computed:
        yield f"{SIMPLIFY} removes what needs constants only, but did not compute this one"
