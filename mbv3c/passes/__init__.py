"""ONNX to ONNX rewrites. `PIPELINE` is the order in which they run."""

from collections.abc import Callable

import onnx

from mbv3c.passes.clip_last import ClipLast
from mbv3c.passes.drop_dead import drop_dead
from mbv3c.passes.drop_noops import drop_noops
from mbv3c.passes.explicit_pads import explicit_pads
from mbv3c.passes.fold_affine import FoldAffine
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
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
from mbv3c.passes.merge_reshapes import merge_reshapes
from mbv3c.passes.report import PassReport, Proof, Refusal
from mbv3c.passes.resolve_castlike import ResolveCastLike
from mbv3c.passes.simplify import simplify
from mbv3c.passes.sink_transposes import sink_transposes
from mbv3c.passes.sub_to_add import SubToAdd
from mbv3c.passes.upgrade_opset import upgrade_opset

__all__ = ["PIPELINE", "Pass", "PassReport", "Proof", "Refusal", "run_pipeline"]

Pass = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, PassReport]]

PIPELINE: tuple[Pass, ...] = (
    # One way to write each operator …
    upgrade_opset,
    ResolveCastLike(),
    simplify,
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


def run_pipeline(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Run every pass in turn, without measuring what each does to the outputs."""
    reports = []
    for rewrite in PIPELINE:
        model, report = rewrite(model)
        reports.append(report)
    return model, reports
