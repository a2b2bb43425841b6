"""Lower a rewritten graph for a GPU."""

from collections.abc import Sequence

import onnx
import tvm

from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.lower import Lowered, assembled
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.precision import PRECISIONS
from mbv3c.targets.opencl.gpu import Gpu
from mbv3c.targets.opencl.limits import check_limits
from mbv3c.targets.opencl.select import select_gpu


def lower_for_gpu(
    model: onnx.ModelProto,
    gpu: Gpu,
    device: str,
    target: tvm.target.Target,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Lowered:
    """Lower a rewritten graph with fixed shapes to the kernels of a GPU, in fp32 or fp16.

    `device` is what messages call it. For fp16, nodes whose names match a pattern of `keep_float`
    stay in fp32. Kernels that `choices` knows are as it says.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
        LimitError: a kernel asks for more than the GPU has.
    """
    check_operators(model)
    plan = select_gpu(model, gpu, target, PRECISIONS[precision], keep_float, choices)
    check_limits(plan, gpu, device)
    return assembled(plan)
