"""Fold the zeros that a Pad adds into the padding of the operator after it.

    Pad(x, pads) → Conv(w, pads=p)                          ⇒   Conv(x, w, pads=p + pads)
    Pad(x, pads) → AveragePool(pads=0 or counted)           ⇒   AveragePool(x, counted pads)

Asymmetric padding, which TensorFlow's SAME is at stride 2, stays asymmetric.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, constant, scalar


class FoldPad(Rewrite):
    """Fold a Pad with zeros into the Conv or AveragePool after it."""

    name = "fold_pad"
    patterns = (
        lambda op, x, pads, w: op.Conv(op.Pad(x, pads), w),
        lambda op, x, pads, w, b: op.Conv(op.Pad(x, pads), w, b),
        lambda op, x, pads: op.AveragePool(op.Pad(x, pads)),
        lambda op, x, pads, value, w: op.Conv(op.Pad(x, pads, value), w),
        lambda op, x, pads, value, w, b: op.Conv(op.Pad(x, pads, value), w, b),
        lambda op, x, pads, value: op.AveragePool(op.Pad(x, pads, value)),
    )
    removes = Removal(("Pad",), "where they add zeros before a Conv or AveragePool")

    def check(self, match: Match) -> str | None:
        pad, user = match.nodes[-2:]
        mode = pad.attributes.get_string("mode", "constant")
        if mode != "constant":
            return f"Pad's mode is {mode}, not constant"
        if "value" in match.values and scalar(match.values["value"]) != 0:
            return "Pad's value is not the constant 0"
        widths = constant(match.values["pads"])
        if widths is None:
            return "Pad's widths are not a constant"
        if len(widths) < 6:
            return "Pad's input is no image"
        edges = widths.reshape(2, -1)
        if edges[:, :2].any():
            return "Pad widens the batch or the channels"
        if (widths < 0).any():
            return "Pad's widths must not be negative: it crops"
        if user.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return f"{user.op_type} chooses its padding by itself (auto_pad)"
        if user.op_type == "AveragePool":
            return _pool_differs(user, widths)
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        user = match.nodes[-1]
        widths = np.asarray(constant(match.values["pads"])).reshape(2, -1)[:, 2:].ravel()
        own = np.asarray(user.attributes.get_ints("pads", (0,) * len(widths)))
        attributes = {name: a for name, a in user.attributes.items() if name != "auto_pad"}
        changed: dict[str, Any] = {"pads": [int(width) for width in widths + own]}
        if user.op_type == "AveragePool":
            changed["count_include_pad"] = 1
        inputs = [match.values["x"], *user.inputs[1:]]
        return op.op(user.op_type, inputs, attributes | changed, name=user.name)


def _pool_differs(pool: ir.Node, widths: NDArray[Any]) -> str | None:
    """Say why zeros before an AveragePool are not the zeros that it counts."""
    own = any(pool.attributes.get_ints("pads", ()))
    if own and not pool.attributes.get_int("count_include_pad", 0):
        return "AveragePool counts the zeros of Pad, but not its own"
    if pool.attributes.get_int("ceil_mode", 0):
        return "AveragePool rounds its output size up"
    if (widths.reshape(2, -1)[:, 2:] >= pool.attributes.get_ints("kernel_shape", ())).any():
        return "Pad is as wide as AveragePool's kernel: some means would be of zeros only"
    return None
