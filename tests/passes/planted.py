"""Rewrites and passes that are wrong, each in a way that a person might write."""

import onnx
import onnx_ir as ir

from mbv3c.passes import PassReport
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from mbv3c.passes.fold_pad import FoldPad
from mbv3c.passes.fold_se import FoldSE
from mbv3c.passes.fuse_clip import FuseClip
from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from mbv3c.passes.fuse_hardswish import FuseHardSwish
from mbv3c.passes.global_pool import MeanToGlobalPool
from mbv3c.passes.rewrite import Match


class HardSwishOf29(FuseHardSwish):
    """It puts 2.9 where 3 belongs."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        x = match.values["x"]
        gate = op.op("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 2.9 / 6}, name=match.name)
        return op.op("Mul", [x, gate], name=f"{match.name}.mul")


class HardSwishOfAnything(FuseHardSwish):
    """It does not look at the constants."""

    def check(self, match: Match) -> str | None:
        return None


class GateOfAnything(FuseHardSigmoid):
    """The same for hard-sigmoid."""

    def check(self, match: Match) -> str | None:
        return None


class WrongEpsilon(FoldBatchNorm):
    """It takes torch's epsilon, 1e-5, whatever the graph says."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        attributes = match.node("BatchNormalization").attributes
        given = attributes.pop("epsilon", None)
        try:
            return super().build(op, match)
        finally:
            if given is not None:
                attributes["epsilon"] = given


class WrongSide(FoldPad):
    """It pads at the end what is to be padded at the start."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        output = super().build(op, match)
        node = output.producer()
        assert node is not None
        pads = list(node.attributes.get_ints("pads"))
        half = len(pads) // 2
        node.attributes["pads"] = ir.AttrInt64s("pads", pads[half:] + pads[:half])
        return output


class AnyMean(MeanToGlobalPool):
    """It does not look at the axes."""

    def check(self, match: Match) -> str | None:
        return None


class GateOverWidth(FoldSE):
    """It squeezes channels and height, not height and width; of a cube the shapes still fit."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        x = match.values["x"]
        turned = op.op("Transpose", [x], {"perm": [0, 3, 2, 1]})
        pool, reduce, relu, expand, gate, scale = match.nodes
        y = op.op("GlobalAveragePool", [turned], name=pool.name)
        y = op.op("Conv", [y, *reduce.inputs[1:]], reduce.attributes, name=reduce.name)
        y = op.op("Relu", [y], name=relu.name)
        y = op.op("Conv", [y, *expand.inputs[1:]], expand.attributes, name=expand.name)
        y = op.op("HardSigmoid", [y], gate.attributes, name=gate.name)
        return op.op("Mul", [x, y], name=scale.name)


class GateOverHeight(FoldSE):
    """It averages columns, not the map, and so has a gate for each; all shapes still fit."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        x = match.values["x"]
        pool, reduce, relu, expand, gate, scale = match.nodes
        y = op.op("ReduceMean", [x], {"axes": [2], "keepdims": 1}, name=pool.name)
        y = op.op("Conv", [y, *reduce.inputs[1:]], reduce.attributes, name=reduce.name)
        y = op.op("Relu", [y], name=relu.name)
        y = op.op("Conv", [y, *expand.inputs[1:]], expand.attributes, name=expand.name)
        y = op.op("HardSigmoid", [y], gate.attributes, name=gate.name)
        return op.op("Mul", [x, y], name=scale.name)


class ShiftForgotten(FoldSE):
    """It forgets the 1/2 that the gate's hard-sigmoid adds."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        gate = match.node("HardSigmoid")
        given = gate.attributes.get("beta")
        gate.attributes["beta"] = ir.AttrFloat32("beta", 0.0)
        try:
            return super().build(op, match)
        finally:
            del gate.attributes["beta"]
            if given is not None:
                gate.attributes["beta"] = given


class ClipForgotten(FuseClip):
    """It forgets the upper bound."""

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        return op.op("Relu", [match.values["x"]], name=match.name)


def drop_activations(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Drop every HardSwish, as if it were an Identity: a pass that is no rewrite."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    names = []
    for node in broken.graph.node:
        if node.op_type == "HardSwish":
            node.op_type = "Identity"
            names.append(node.name)
    count = len(model.graph.node)
    return broken, PassReport("drop_activations", tuple(names), (), count, count, bool(names))
