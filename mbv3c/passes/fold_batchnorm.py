"""Fold BatchNormalization into the convolution before it.

    Conv(x, w, b) → BatchNormalization(scale, shift, mean, var)
        ⇒   Conv(x, w · k, (b − mean) · k + shift)   with k = scale / sqrt(var + epsilon)

Source: Jacob et al., arXiv:1712.05877, section 3.2.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, constant, replaced_initializer


def _conv(op: Any, x: Any, weight: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
    return op.BatchNormalization(op.Conv(x, weight), scale, shift, mean, variance)


def _conv_with_bias(
    op: Any, x: Any, weight: Any, bias: Any, scale: Any, shift: Any, mean: Any, variance: Any
) -> Any:
    return op.BatchNormalization(op.Conv(x, weight, bias), scale, shift, mean, variance)


class FoldBatchNorm(Rewrite):
    """Fold BatchNormalization into the convolution before it, computed in fp64."""

    name = "fold_batchnorm"
    patterns = (_conv, _conv_with_bias)
    removes = Removal(("BatchNormalization",), "right behind a Conv")

    def check(self, match: Match) -> str | None:
        batchnorm = match.node("BatchNormalization")
        if batchnorm.attributes.get_int("training_mode", 0) != 0:
            return "BatchNormalization is in training mode"
        if any(output.name for output in batchnorm.outputs[1:]):
            # Before opset 14 this is what says that it is in training mode.
            return "BatchNormalization's running statistics are used as outputs"
        for name, value in match.values.items():
            if name != "x" and constant(value) is None:
                return f"{name} {value.name!r} is not a constant"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        conv, batchnorm = match.node("Conv"), match.node("BatchNormalization")
        numbers = {name: constant(v) for name, v in match.values.items() if name != "x"}
        weight, scale, shift, mean, variance = (
            np.asarray(numbers[name], np.float64)
            for name in ("weight", "scale", "shift", "mean", "variance")
        )
        bias = np.asarray(numbers.get("bias", 0.0), np.float64)
        factor = scale / np.sqrt(variance + batchnorm.attributes.get_float("epsilon", 1e-5))
        dtype = numbers["weight"].dtype  # type: ignore[union-attr]
        old_bias = match.values.get("bias", match.values["shift"])
        folded_weight = (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).astype(dtype)
        folded_bias = ((bias - mean) * factor + shift).astype(dtype)
        inputs = [
            match.values["x"],
            replaced_initializer(op, match, match.values["weight"], folded_weight),
            replaced_initializer(op, match, old_bias, folded_bias),
        ]
        return op.op("Conv", inputs, conv.attributes, name=conv.name)
