"""Spell every mean over the whole map in one way.

ReduceMean(x, axes=[2, 3])                         ⇒   GlobalAveragePool(x)
ReduceMean(x, axes=[2, 3], keepdims=0)             ⇒   GlobalAveragePool(x) → Flatten
AveragePool(x) with a kernel as large as the map   ⇒   GlobalAveragePool(x)
"""

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, constant, dimensions, static


class MeanToGlobalPool(Rewrite):
    """Turn ReduceMean and AveragePool over the whole map into GlobalAveragePool."""

    name = "global_pool"
    patterns = (
        lambda op, x: op.ReduceMean(x),
        lambda op, x, axes: op.ReduceMean(x, axes),
        lambda op, x: op.AveragePool(x),
    )
    removes = Removal(("ReduceMean", "AveragePool"), "where they are the mean over the whole map")

    def check(self, match: Match) -> str | None:
        node = match.nodes[-1]
        return _pools_part(node) if node.op_type == "AveragePool" else _not_over_map(node, match)

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        node = match.nodes[-1]
        pooled = op.op("GlobalAveragePool", [match.values["x"]], name=node.name)
        if node.op_type == "AveragePool" or node.attributes.get_int("keepdims", 1) != 0:
            return pooled
        # Several nodes may lack a name, but two may not share one.
        name = f"{node.name}.flatten" if node.name else None
        return op.op("Flatten", [pooled], {"axis": 1}, name=name)


def _not_over_map(mean: ir.Node, match: Match) -> str | None:
    """Say why a ReduceMean is no global pool of an NCHW tensor, if it is none."""
    axes = mean.attributes.get_ints("axes", ())
    if "axes" in match.values:
        operand = constant(match.values["axes"])
        if operand is None:
            return "ReduceMean's axes are not a constant"
        axes = [int(axis) for axis in operand.ravel()]
    shape = match.values["x"].shape
    if shape is None or len(shape) != 4:
        return "ReduceMean's input is not known to be an image of four dimensions"
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return f"ReduceMean must be over axes 2 and 3, got {list(axes)}"
    return None


def _pools_part(pool: ir.Node) -> str | None:
    """Say why an AveragePool is not over the whole map, if it is not."""
    assert pool.inputs[0] is not None
    shape = static(pool.inputs[0])
    if shape is None or len(shape) != 4:
        return "AveragePool's input is not known to be an image of four dimensions"
    kernel = tuple(pool.attributes.get_ints("kernel_shape", ()))
    if kernel != shape[2:]:
        return f"AveragePool's kernel is {dimensions(kernel)}, the map {dimensions(shape[2:])}"
    mode = pool.attributes.get_string("auto_pad", "NOTSET")
    if any(pool.attributes.get_ints("pads", ())) or mode not in ("NOTSET", "VALID"):
        return "AveragePool pads the map"
    if any(dilation != 1 for dilation in pool.attributes.get_ints("dilations", ())):
        return "AveragePool is dilated"
    return None
