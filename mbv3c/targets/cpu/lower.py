"""Lower a rewritten graph for a CPU."""

from collections.abc import Sequence

import onnx
import tvm

from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.lower import Lowered, assembled
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.lowering.qdq import read_pairs
from mbv3c.precision import PRECISIONS
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.select import select
from mbv3c.targets.cpu.select_integers import select_quantized


def lower(
    model: onnx.ModelProto,
    machine: Processor,
    target: tvm.target.Target,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Lowered:
    """Lower a rewritten graph with fixed shapes to kernels of a precision of `PRECISIONS`.

    For int8 the graph is one with pairs of QuantizeLinear and DequantizeLinear. For fp16, nodes
    whose names match a pattern of `keep_float` stay in fp32. Kernels that `choices` knows
    are as it says.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
    """
    check_operators(model)
    if PRECISIONS[precision] == "int8":
        plan = select_quantized(read_pairs(model), machine, target, choices)
    else:
        plan = select(model, machine, target, PRECISIONS[precision], keep_float, choices)
    return assembled(plan)
