"""ONNX to ONNX rewrites. `PIPELINE` is the order in which they run."""

from collections.abc import Callable

import onnx

from mbv3c.passes.drop_dead import drop_dead
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from mbv3c.passes.fold_se import FoldSE
from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from mbv3c.passes.fuse_hardswish import FuseHardSwish
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.simplify import simplify

__all__ = ["PIPELINE", "Pass", "PassReport", "Refusal"]

Pass = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, PassReport]]

PIPELINE: tuple[Pass, ...] = (
    simplify,
    FoldBatchNorm(),
    FuseHardSigmoid(),
    FuseHardSwish(),
    FoldSE(),
    drop_dead,
)
