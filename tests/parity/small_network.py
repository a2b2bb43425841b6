"""Three bottlenecks as frameworks export them: every spelling that a fault needs, in seconds."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32


def small_network(more_channels: int = 0) -> onnx.ModelProto:
    """Return a network of 1x3x32x32 with ten classes; its nodes are named by block.

    Its maps have multiples of eight channels, and `more_channels`.
    """
    return _Writer(more_channels).model()


class _Writer:
    def __init__(self, more_channels: int) -> None:
        self._more = more_channels
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._stored = [
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("zero", 0.0), ("three", 3.0), ("six", 6.0))
        ]

    def model(self) -> onnx.ModelProto:
        x = self._act("stem.act", self._conv("stem", "x", 3, 16, 3, 2, [1, 1, 1, 1]))
        x = self._bottleneck1(x)
        x = self._bottleneck("bneck2", x, 24, residual=True)
        x = self._bottleneck("bneck3", x, 32)
        x = self._act("last.act", self._conv("last", x, 32, 64))
        x = self._flatten(self._node("pool", "GlobalAveragePool", [x]))
        weights = [self._random("head.weight", 10, 64 + self._more), self._random("head.bias", 10)]
        self._nodes.append(helper.make_node("Gemm", [x, *weights], ["logits"], "head", transB=1))
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
        made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])
        graph = helper.make_graph(self._nodes, "small", [given], [made], self._stored)
        imports = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _bottleneck1(self, x: str) -> str:
        """Stride 2 behind a Pad of its own, as TensorFlow has it, and squeeze-and-excitation."""
        pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64), "pads")
        self._stored.append(pads)
        x = self._node("bneck1.pad", "Pad", [x, "pads"])
        x = self._act("bneck1.act", self._conv("bneck1.depthwise", x, 16, 16, 3, 2, groups=16))
        gate = self._node("bneck1.se.pool", "GlobalAveragePool", [x])
        gate = self._conv("bneck1.se.reduce", gate, 16, 8, norm=False)
        gate = self._node("bneck1.se.relu", "Relu", [gate])
        gate = self._conv("bneck1.se.expand", gate, 8, 16, norm=False)
        gate = self._gate("bneck1.se.gate", gate)
        gate = self._node("bneck1.se.gate.div", "Div", [gate, "six"])
        x = self._node("bneck1.se.scale", "Mul", [x, gate])
        return self._conv("bneck1.project", x, 16, 24)

    def _bottleneck(self, name: str, given: str, outputs: int, residual: bool = False) -> str:
        x = self._act(f"{name}.expand.act", self._conv(f"{name}.expand", given, 24, 72))
        x = self._conv(f"{name}.depthwise", x, 72, 72, 3, 1, [1, 1, 1, 1], 72)
        x = self._conv(f"{name}.project", self._act(f"{name}.act", x), 72, outputs)
        return self._node(f"{name}.residual", "Add", [x, given]) if residual else x

    def _conv(
        self,
        name: str,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        pads: list[int] | None = None,
        groups: int = 1,
        norm: bool = True,
    ) -> str:
        inputs, outputs, groups = (
            one + (self._more if one > 3 else 0) for one in (inputs, outputs, groups)
        )
        fan_in = inputs // groups * kernel**2
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self._random(f"{name}.weight", *shape, scale=(2 / fan_in) ** 0.5)
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "group": groups}
        attributes["pads"] = pads or [0, 0, 0, 0]
        bias = [] if norm else [self._random(f"{name}.bias", outputs)]
        made = self._node(f"{name}.conv", "Conv", [x, weight, *bias], **attributes)
        if not norm:
            return made
        return self._node(
            f"{name}.bn",
            "BatchNormalization",
            [made, *self._statistics(name, outputs)],
            epsilon=1e-3,
        )

    def _statistics(self, name: str, channels: int) -> Iterator[str]:
        yield self._random(f"{name}.bn.weight", channels, scale=0.1, shift=1.0)
        yield self._random(f"{name}.bn.bias", channels, scale=0.3)
        yield self._random(f"{name}.bn.mean", channels, scale=0.1)
        # Small ones, so that epsilon matters.
        yield self._random(f"{name}.bn.var", channels, scale=0.01, shift=0.1)

    def _act(self, name: str, x: str) -> str:
        scaled = self._node(f"{name}.mul", "Mul", [x, self._gate(name, x)])
        return self._node(f"{name}.div", "Div", [scaled, "six"])

    def _gate(self, name: str, x: str) -> str:
        shifted = self._node(f"{name}.add", "Add", [x, "three"])
        return self._node(f"{name}.clip", "Clip", [shifted, "zero", "six"])

    def _flatten(self, x: str) -> str:
        return self._node("flatten", "Flatten", [x])

    def _node(self, name: str, operator: str, inputs: list[str], **attributes: object) -> str:
        node = helper.make_node(operator, inputs, [f"{name}.out"], name, **attributes)
        self._nodes.append(node)
        return f"{name}.out"

    def _random(self, name: str, *shape: int, scale: float = 0.5, shift: float = 0.0) -> str:
        values = shift + scale * np.clip(self._rng.standard_normal(shape), -3, 3)
        self._stored.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name
