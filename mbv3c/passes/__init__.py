"""ONNX to ONNX rewrites. `PIPELINE` is the order in which they run."""

import gc
from collections.abc import Callable, Sequence

import onnx
from onnx import shape_inference
from onnx_ir.serde import SerdeError

from mbv3c.errors import ModelError
from mbv3c.graphs.size import check_size, stored_bytes
from mbv3c.passes.canonical_qdq import canonical_qdq
from mbv3c.passes.clip_last import ClipLast
from mbv3c.passes.drop_dead import drop_dead
from mbv3c.passes.drop_noops import drop_noops
from mbv3c.passes.explicit_pads import explicit_pads
from mbv3c.passes.fold_affine import FoldAffine
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from mbv3c.passes.fold_colours import fold_colours
from mbv3c.passes.fold_constants import fold_constants
from mbv3c.passes.fold_control_flow import fold_control_flow
from mbv3c.passes.fold_pad import FoldPad
from mbv3c.passes.fold_rescale import fold_rescale
from mbv3c.passes.fold_se import FoldSE
from mbv3c.passes.fuse_clip import FuseClip
from mbv3c.passes.fuse_gemm import FuseGemm
from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from mbv3c.passes.fuse_hardswish import FuseHardSwish
from mbv3c.passes.fuse_relu import FuseRelu
from mbv3c.passes.gemm_to_conv import gemm_to_conv
from mbv3c.passes.global_pool import MeanToGlobalPool
from mbv3c.passes.head_to_gemm import head_to_gemm
from mbv3c.passes.inline_functions import inline_functions
from mbv3c.passes.lift_constants import lift_constants
from mbv3c.passes.merge_reshapes import merge_reshapes
from mbv3c.passes.report import PassReport, Proof, Refusal
from mbv3c.passes.resolve_castlike import ResolveCastLike
from mbv3c.passes.shift_to_conv import shift_to_conv
from mbv3c.passes.simplify import simplify
from mbv3c.passes.sink_transposes import sink_transposes
from mbv3c.passes.spell_missing import spell_missing
from mbv3c.passes.spell_normalization import spell_normalization
from mbv3c.passes.spell_resize import spell_resize
from mbv3c.passes.spell_topk import spell_topk
from mbv3c.passes.split_qoperators import split_qoperators
from mbv3c.passes.sub_to_add import SubToAdd
from mbv3c.passes.undo_fusions import undo_fusions
from mbv3c.passes.unroll_recurrent import unroll_recurrent
from mbv3c.passes.upgrade_opset import upgrade_opset
from mbv3c.passes.widen_halves import widen_halves
from mbv3c.steps import step

__all__ = [
    "BEFORE_QUANTIZING",
    "CLEANING",
    "COMPILING",
    "OF_FRAMES",
    "PIPELINE",
    "SPLITTING",
    "Pass",
    "PassReport",
    "Proof",
    "Refusal",
    "applied",
    "run_pipeline",
]

Pass = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, PassReport]]

# What says the same in another way; a quantized graph goes through these only, since the others
# would fold its integers to fp32.
CLEANING: tuple[Pass, ...] = (
    inline_functions,
    lift_constants,
    fold_constants,
    undo_fusions,
    widen_halves,
    split_qoperators,
    spell_topk,
    spell_normalization,
    spell_missing,
    unroll_recurrent,
    drop_noops,
    canonical_qdq,
)

# What makes pairs of operators on integers.
SPLITTING: tuple[Pass, ...] = (
    inline_functions,
    lift_constants,
    fold_constants,
    undo_fusions,
    split_qoperators,
)

_IN_ONE_GRAPH: tuple[Pass, ...] = (
    inline_functions,
    lift_constants,
    undo_fusions,
    upgrade_opset,
    fold_control_flow,
    ResolveCastLike(),
    simplify,
)

_IN_ONE_FORM: tuple[Pass, ...] = (
    # One way to write each operator …
    spell_resize,
    spell_topk,
    spell_normalization,
    spell_missing,
    unroll_recurrent,
    drop_noops,
    SubToAdd(),
    explicit_pads,
    sink_transposes,
    MeanToGlobalPool(),
    merge_reshapes,
    FoldPad(),
    FuseClip(),
    FuseRelu(),
    ClipLast(),
    FuseGemm(),
    # … one operator for each activation …
    FoldBatchNorm(),
    FuseHardSigmoid(),
    FuseHardSwish(),
    FoldAffine(),
    fold_rescale,
    # … and one form of squeeze-and-excite and of the head.
    gemm_to_conv,
    head_to_gemm,
    FoldSE(),
    drop_dead,
)

# What `optimize` does to a file, and what `compile` does to a graph.
PIPELINE: tuple[Pass, ...] = (*_IN_ONE_GRAPH, *_IN_ONE_FORM)
COMPILING: tuple[Pass, ...] = (*_IN_ONE_GRAPH, widen_halves, *_IN_ONE_FORM)

# What follows where the input holds whole pixels: a frame. Before a graph is quantized, both.
OF_FRAMES: tuple[Pass, ...] = (fold_colours, drop_dead)
BEFORE_QUANTIZING: tuple[Pass, ...] = (fold_colours, shift_to_conv, drop_dead)


_LARGE = 4 << 20  # bytes of weights


def applied(rewrite: Pass, model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Run a pass.

    Raises:
        ModelError: the model contradicts itself, so that the pass cannot read it.
    """
    try:
        return rewrite(model)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, SerdeError) as error:
        raise ModelError(f"the model contradicts itself: {str(error).strip()}") from error


def run_pipeline(
    model: onnx.ModelProto, passes: Sequence[Pass] | None = None
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Run passes in turn, all of `PIPELINE` by default, without measuring what they do.

    Raises:
        ModelError: the model is too large, or becomes so.
    """
    reports: list[PassReport] = []
    check_size(stored_bytes(model.graph.initializer), "the model")
    for rewrite in PIPELINE if passes is None else passes:
        with step("rewriting the graph", "onnx", model.ByteSize):
            model, report = applied(rewrite, model)
        grown = stored_bytes(model.graph.initializer)
        check_size(grown, f"the model as {report.name} rewrites it")
        reports.append(report)
        if report.changed and grown > _LARGE:
            gc.collect()  # the graph of a pass is a circle of objects, and has the weights
    return model, reports
