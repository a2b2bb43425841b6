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


def _scaled(op: Any, x: Any, y: Any) -> Any:
    return op.Mul(x, op.HardSigmoid(y))


def _both_biased(op: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    squeezed = op.Relu(op.Conv(op.GlobalAveragePool(x), w1, b1))
    return _scaled(op, x, op.Conv(squeezed, w2, b2))


def _second_biased(op: Any, x: Any, w1: Any, w2: Any, b2: Any) -> Any:
    squeezed = op.Relu(op.Conv(op.GlobalAveragePool(x), w1))
    return _scaled(op, x, op.Conv(squeezed, w2, b2))


def _first_biased(op: Any, x: Any, w1: Any, b1: Any, w2: Any) -> Any:
    squeezed = op.Relu(op.Conv(op.GlobalAveragePool(x), w1, b1))
    return _scaled(op, x, op.Conv(squeezed, w2))


def _unbiased(op: Any, x: Any, w1: Any, w2: Any) -> Any:
    squeezed = op.Relu(op.Conv(op.GlobalAveragePool(x), w1))
    return _scaled(op, x, op.Conv(squeezed, w2))


class FoldSE(Rewrite):
    """Fold hard-sigmoid's scale and shift into the second SE convolution."""

    name = "fold_se"
    patterns = (_both_biased, _second_biased, _first_biased, _unbiased)
    removes = Removal(("HardSigmoid",), "as the gate of squeeze-and-excite")

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
        folded = [
            replaced_initializer(
                op,
                match,
                match.values["w2"],
                (weight.astype(np.float64) * alpha).astype(weight.dtype),
            ),
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
    return replaced_initializer(
        op, match, old, (bias.astype(np.float64) * alpha + beta).astype(bias.dtype)
    )
