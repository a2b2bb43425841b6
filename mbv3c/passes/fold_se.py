"""Fold the gate of a squeeze-and-excite branch into its second convolution.

    GlobalAveragePool(x) → Conv → Relu → Conv(w, b) → HardSigmoid(α, β) → Mul(x)
        ⇒   GlobalAveragePool(x) → Conv → Relu → Conv(α·w, α·b + β) → Clip(0, 1) → Mul(x)

Either convolution may lack a bias. A Sigmoid gate stays as it is. Source: arXiv:1905.02244,
section 5.3; hard-sigmoid is linear between its saturation points, so its scale and shift are one
more affine step after the convolution.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, constant, new_initializer, replaced_initializer


def _branch(op: Any, x: Any, reduce: tuple[Any, ...], expand: tuple[Any, ...]) -> Any:
    squeezed = op.Relu(op.Conv(op.GlobalAveragePool(x), *reduce))
    return op.Mul(x, op.HardSigmoid(op.Conv(squeezed, *expand)))


class FoldSE(Rewrite):
    """Fold hard-sigmoid's scale and shift into the second SE convolution."""

    name = "fold_se"
    patterns = (
        lambda op, x, w1, b1, w2, b2: _branch(op, x, (w1, b1), (w2, b2)),
        lambda op, x, w1, w2, b2: _branch(op, x, (w1,), (w2, b2)),
        lambda op, x, w1, b1, w2: _branch(op, x, (w1, b1), (w2,)),
        lambda op, x, w1, w2: _branch(op, x, (w1,), (w2,)),
    )
    removes = Removal(("HardSigmoid",), "as the gate of squeeze-and-excite")
    writes = ("Clip", 11)

    def check(self, match: Match) -> str | None:
        for name in ("w2", "b2"):
            if name in match.values and constant(match.values[name]) is None:
                return f"{match.values[name].name!r} of the second convolution is not a constant"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        pool, reduce, relu, expand, gate, scale = match.nodes
        alpha = gate.attributes.get_float("alpha", 0.2)
        beta = gate.attributes.get_float("beta", 0.5)
        weight = np.asarray(constant(match.values["w2"]))
        bounds = [
            new_initializer(op, match, f"{gate.name}.{end}", np.array(bound, weight.dtype))
            for end, bound in (("low", 0), ("high", 1))
        ]
        x = match.values["x"]
        y = op.op("GlobalAveragePool", [x], name=pool.name)
        y = op.op("Conv", [y, *reduce.inputs[1:]], reduce.attributes, name=reduce.name)
        y = op.op("Relu", [y], name=relu.name)
        scaled = (weight.astype(np.float64) * alpha).astype(weight.dtype)
        folded = [
            replaced_initializer(op, match, match.values["w2"], scaled),
            _folded_bias(op, match, alpha, beta, weight),
        ]
        y = op.op("Conv", [y, *folded], expand.attributes, name=expand.name)
        y = op.op("Clip", [y, *bounds], name=gate.name)
        return op.op("Mul", [x, y], name=scale.name)


def _folded_bias(
    op: ir.tape.Tape, match: Match, alpha: float, beta: float, weight: np.ndarray[Any, Any]
) -> ir.Value:
    if "b2" not in match.values:
        bias = np.full(len(weight), beta, weight.dtype)
        return new_initializer(op, match, f"{match.node('HardSigmoid').name}.bias", bias)
    old = match.values["b2"]
    bias = np.asarray(constant(old))
    folded = (bias.astype(np.float64) * alpha + beta).astype(bias.dtype)
    return replaced_initializer(op, match, old, folded)
