"""Fold the gate of a squeeze-and-excite branch into its second convolution.

    pool(x) → Conv → Relu → Conv(w, b) → HardSigmoid(α, β) → Mul(x)
        ⇒   GlobalAveragePool(x) → Conv → Relu → Conv(α·w, α·b + β) → Clip(0, 1) → Mul(x)

The pool, spelled as GlobalAveragePool or as ReduceMean over height and width, becomes
GlobalAveragePool. Source: arXiv:1905.02244, section 5.3; hard-sigmoid is linear between its
saturation points, so its scale and shift are one more affine step after the convolution.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from mbv3c.passes.rewrite import Match, Rewrite, constant, new_initializer, replaced_initializer


def _branch(op: Any, x: Any, pooled: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    squeezed = op.Relu(op.Conv(pooled, w1, b1))
    return op.Mul(x, op.HardSigmoid(op.Conv(squeezed, w2, b2)))


def _global_pool(op: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    return _branch(op, x, op.GlobalAveragePool(x), w1, b1, w2, b2)


def _mean(op: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    return _branch(op, x, op.ReduceMean(x), w1, b1, w2, b2)


def _mean_with_axes(op: Any, x: Any, axes: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    return _branch(op, x, op.ReduceMean(x, axes), w1, b1, w2, b2)


class FoldSE(Rewrite):
    """Fold hard-sigmoid's scale and shift into the second SE convolution."""

    name = "fold_se"
    patterns = (_global_pool, _mean, _mean_with_axes)

    def check(self, match: Match) -> str | None:
        for name in ("w2", "b2"):
            if constant(match.values[name]) is None:
                return f"{match.values[name].name!r} of the second convolution is not a constant"
        pool = match.nodes[0]
        if pool.op_type == "ReduceMean":
            return _not_over_the_map(pool, match)
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        pool, reduce, relu, expand, gate, scale = match.nodes
        alpha = gate.attributes.get_float("alpha", 0.2)
        beta = gate.attributes.get_float("beta", 0.5)
        old_weight, old_bias = match.values["w2"], match.values["b2"]
        weight = np.asarray(constant(old_weight))
        bias = np.asarray(constant(old_bias))
        new_weight = (weight.astype(np.float64) * alpha).astype(weight.dtype)
        new_bias = (bias.astype(np.float64) * alpha + beta).astype(bias.dtype)
        bounds = [
            new_initializer(op, match, f"{gate.name}.{end}", np.array(bound, weight.dtype))
            for end, bound in (("low", 0), ("high", 1))
        ]
        x = match.values["x"]
        y = op.op("GlobalAveragePool", [x], name=pool.name)
        y = op.op("Conv", [y, *reduce.inputs[1:]], reduce.attributes, name=reduce.name)
        y = op.op("Relu", [y], name=relu.name)
        folded = [
            replaced_initializer(op, match, old_weight, new_weight),
            replaced_initializer(op, match, old_bias, new_bias),
        ]
        y = op.op("Conv", [y, *folded], expand.attributes, name=expand.name)
        y = op.op("Clip", [y, *bounds], name=gate.name)
        return op.op("Mul", [x, y], name=scale.name)


def _not_over_the_map(mean: ir.Node, match: Match) -> str | None:
    """Say why a ReduceMean is no global pool of an NCHW tensor, if it is none."""
    if mean.attributes.get_int("keepdims", 1) != 1:
        return "ReduceMean drops the dimensions that it reduces"
    axes = mean.attributes.get_ints("axes", ())
    if "axes" in match.values:
        given = constant(match.values["axes"])
        if given is None:
            return "ReduceMean's axes are not a constant"
        axes = [int(axis) for axis in given]
    shape = match.values["x"].shape
    if shape is None or len(shape) != 4:
        return "ReduceMean's input is not known to be an image of four dimensions"
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return f"ReduceMean must be over axes 2 and 3, got {list(axes)}"
    return None
