"""Relax to fused TensorIR."""

import tvm
from tvm.relax import transform

from mbv3c.lowering.fold_reshape import FoldReshape

# In order: spell composite operators out, make one binding per value, compute what is constant,
# turn every operator into TensorIR, and merge elementwise work into the convolution before it.
RELAX_PASSES: tuple[tvm.transform.Pass, ...] = (
    transform.DecomposeOpsForInference(),
    FoldReshape(),
    transform.CanonicalizeBindings(),
    transform.FoldConstant(),
    transform.LegalizeOps(),
    transform.AnnotateTIROpPattern(),
    transform.FoldConstant(),
    transform.FuseOps(),
    transform.FuseTIR(),
    transform.DeadCodeElimination(),
)


def legalize(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Lower an imported graph to one `main` over fused TensorIR functions, not yet scheduled."""
    with target:
        return tvm.transform.Sequential(RELAX_PASSES)(module)
