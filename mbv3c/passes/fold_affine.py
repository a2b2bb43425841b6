"""Fold a scale or shift of all channels, or of each, into the convolution before it.

    Conv(x, w, b) → Mul(k)   ⇒   Conv(x, k · w, k · b)
    Conv(x, w, b) → Div(k)   ⇒   Conv(x, w / k, b / k)
    Conv(x, w, b) → Add(s)   ⇒   Conv(x, w, b + s)

with constants k and s of one number, or of shape [C, 1, 1] or [1, C, 1, 1]. The latter is
BatchNormalization as TensorFlow's graph optimiser leaves it (Jacob et al., arXiv:1712.05877,
section 3.2); one number is the learnable affine block of PP-LCNetV3.
"""

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, constant, replaced_initializer


class FoldAffine(Rewrite):
    """Fold one constant, or one per channel, into the convolution before it."""

    name = "fold_affine"
    patterns = (
        lambda op, x, weight, scale: op.Mul(op.Conv(x, weight), scale),
        lambda op, x, weight, bias, scale: op.Mul(op.Conv(x, weight, bias), scale),
        lambda op, x, weight, divisor: op.Div(op.Conv(x, weight), divisor),
        lambda op, x, weight, bias, divisor: op.Div(op.Conv(x, weight, bias), divisor),
        lambda op, x, weight, shift: op.Add(op.Conv(x, weight), shift),
        lambda op, x, weight, bias, shift: op.Add(op.Conv(x, weight, bias), shift),
    )
    constants = frozenset({"weight", "bias", "scale", "divisor", "shift"})
    removes = Removal(("Add", "Mul", "Div"), "with a constant right behind a Conv")

    def check(self, match: Match) -> str | None:
        weight = np.asarray(constant(match.values["weight"]))
        name = next(n for n in ("scale", "divisor", "shift") if n in match.values)
        shape = np.asarray(constant(match.values[name])).shape
        channel = (weight.shape[0], *(1,) * (weight.ndim - 2))
        one = (1,) * min(len(shape), weight.ndim)
        if shape not in (channel, (1, *channel), one):
            return (
                f"the {name} is {list(shape)}, neither one number nor one per channel, "
                f"{list(channel)}"
            )
        if name == "divisor" and not np.asarray(constant(match.values[name])).all():
            return "the divisor is 0 for a channel"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        conv = match.node("Conv")
        numbers = {name: constant(v) for name, v in match.values.items() if name != "x"}
        weight = np.asarray(numbers["weight"])
        scale = np.asarray(numbers.get("scale", 1.0), np.float64).reshape(-1)
        scale = scale / np.asarray(numbers.get("divisor", 1.0), np.float64).reshape(-1)
        shift = np.asarray(numbers.get("shift", 0.0), np.float64).reshape(-1)
        inputs = [match.values["x"], match.values["weight"]]
        if "shift" not in numbers:
            scaled = weight.astype(np.float64) * scale.reshape(-1, *(1,) * (weight.ndim - 1))
            inputs[1] = replaced_initializer(op, match, inputs[1], scaled.astype(weight.dtype))
        if "bias" in numbers or "shift" in numbers:
            bias = np.zeros(len(weight)) + np.asarray(numbers.get("bias", 0.0), np.float64)
            bias = bias * scale + shift
            old = match.values["bias" if "bias" in numbers else "shift"]
            inputs.append(replaced_initializer(op, match, old, bias.astype(weight.dtype)))
        return op.op("Conv", inputs, conv.attributes, name=conv.name)
