"""TensorIR to what LLVM compiles: TVM's own pipelines, without some steps for our kernels on CPUs.

Our kernels hold their accumulators in small buffers on the stack, which LLVM turns into registers.
TVM would take these buffers out of the loops and ask the runtime for their memory. It would also
narrow the kernels' indices, which must keep 64 bits (see `emit.loop`). Functions that TVM wrote
need both steps. Six further steps find nothing in our kernels, whose loops are final already, and
take half of the time: LLVM makes the same code without them. What gets no memory from
outside is not checked for it (`unchecked`).
"""

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import (
    default_s_tir_pipeline,
    finalize_device_passes,
    finalize_host_passes,
)
from tvm.tirx.compilation_pipeline import PIPELINE_MAP

from mbv3c.lowering.schedules.emit import KERNEL
from mbv3c.lowering.unchecked import SkipTrusted

_NAME = "mbv3c_cpu"
_GPU_NAME = "mbv3c_gpu"


@tvm.transform.module_pass(opt_level=0, name="ExceptKernels")
class ExceptKernels:
    """A pass of TVM's for all functions but our kernels."""

    def __init__(self, inner: tvm.transform.Pass) -> None:
        self._inner = inner

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        others = {
            name: function
            for name, function in module.functions_items()
            if not (function.attrs and KERNEL in function.attrs)
        }
        if not others:
            return module
        changed = module.clone()
        for name, function in self._inner(tvm.IRModule(others)).functions_items():
            changed[name] = function
        return changed


# The steps of `tvm.s_tir.pipeline.default_s_tir_pipeline` that concern a CPU, in its order.
TIR_PASSES: tuple[tvm.transform.Pass, ...] = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    ExceptKernels(s_tir.transform.PlanAndUpdateBufferAllocationLocation()),
    s_tir.transform.ConvertBlocksToOpaque(),
    ExceptKernels(s_tir.transform.CompactBufferAllocation()),
    s_tir.transform.LowerMatchBuffer(),
    ExceptKernels(s_tir.transform.StmtSimplify()),
    s_tir.transform.AnnotateIrregularLoop(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.BF16ComputeLegalize(),
    ExceptKernels(tirx.transform.NarrowDataType(32)),
    ExceptKernels(s_tir.transform.LoopPartition()),
    tirx.transform.VectorizeLoop(),
    ExceptKernels(tirx.transform.StorageRewrite()),
    ExceptKernels(s_tir.transform.HoistIfThenElse()),
    tirx.transform.UnrollLoop(),
    ExceptKernels(s_tir.transform.RenormalizeSplitPattern()),
    tirx.transform.StmtSimplify(),
    ExceptKernels(tirx.transform.RemoveNoOp()),
    s_tir.transform.RewriteUnsafeSelect(),
    tirx.transform.CommonSubexprElim(),
    tirx.transform.FP8ComputeLegalize(),
    tirx.transform.VerifyMemory(),
    tirx.transform.AnnotateEntryFunc(),
    tirx.transform.SplitHostDevice(),
    tirx.transform.MakePackedAPI(),
    tirx.transform.FP8StorageLegalize(),
    tirx.transform.BF16StorageLegalize(),
    SkipTrusted(),
)


def register_tir_pipeline() -> str:
    """Register the pipeline for CPUs with TVM and return its name."""
    PIPELINE_MAP.setdefault(_NAME, _pipeline)
    return _NAME


def register_gpu_pipeline() -> str:
    """Register the pipeline for GPUs with TVM and return its name."""
    PIPELINE_MAP.setdefault(_GPU_NAME, _gpu_pipeline)
    return _GPU_NAME


def _pipeline() -> tuple[Any, Any, Any]:
    """Return the passes, and the functions that give the last ones for host and device code."""
    return tvm.transform.Sequential(TIR_PASSES), finalize_host_passes, finalize_device_passes


def _gpu_pipeline() -> tuple[Any, Any, Any]:
    """Return TVM's pipeline for GPUs, without the host's checks that are not needed."""
    passes, host, device = default_s_tir_pipeline()
    return tvm.transform.Sequential([passes, SkipTrusted()]), host, device
