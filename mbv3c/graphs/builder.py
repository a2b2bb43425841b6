"""Build MobileNetV3 as an ONNX graph, spelled the way training frameworks export it.

Convolutions carry no bias and are followed by BatchNormalization; hard-swish and hard-sigmoid
stand in primitive operators (Add, Clip, Mul, Div). The rewrites in `mbv3c.passes` turn this into
what a compiler wants; building the raw form here gives them real work and a reference.
"""

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbv3c.graphs.initialize import initialize
from mbv3c.graphs.spec import (
    BATCHNORM_EPSILON,
    PREPROCESSING_MEAN,
    PREPROCESSING_STD,
    Activation,
    Block,
    ModelSpec,
    architecture,
    pads,
    squeeze_channels,
)

OPSET = 17
IR_VERSION = 8  # the ONNX IR version that belongs to opset 17

INPUT = "input"
OUTPUT = "logits"


def build_model(spec: ModelSpec) -> onnx.ModelProto:
    """Build the network with seeded weights.

    Input `input` is fp32 NCHW `spec.input_shape`; output `logits` is fp32
    `(spec.batch, spec.classes)`. Nodes and tensors are named by block, as in torchvision:
    `features.4.se.reduce`, `classifier.3`. The same spec gives the same bytes.

    Returns:
        A model that passes `onnx.checker` with full check; its metadata holds the spec and the
        preprocessing that its inputs expect.
    """
    graph = _GraphWriter(spec)
    arch = architecture(spec)
    x = graph.conv_bn("features.0", INPUT, 3, arch.stem, kernel=3, stride=2)
    x = graph.activation("features.0.act", x, arch.activation)
    channels = arch.stem
    for index, block in enumerate(arch.blocks, start=1):
        x = _inverted_residual(graph, f"features.{index}", x, channels, block)
        channels = block.out
    last = f"features.{len(arch.blocks) + 1}"
    x = graph.conv_bn(last, x, channels, arch.last_conv)
    x = graph.activation(f"{last}.act", x, arch.activation)
    x = graph.node("GlobalAveragePool", "pool", [x])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    x = graph.gemm("classifier.0", x, arch.last_conv, arch.hidden)
    x = graph.activation("classifier.1", x, arch.activation)
    graph.gemm("classifier.3", x, arch.hidden, spec.classes, output=OUTPUT)
    model = graph.model(spec)
    initialize(model, spec.seed)
    onnx.checker.check_model(model, full_check=True)
    return model


def _inverted_residual(
    graph: "_GraphWriter", name: str, x: str, channels: int, block: Block
) -> str:
    y = x
    if block.expand != channels:
        y = graph.conv_bn(f"{name}.expand", y, channels, block.expand)
        y = graph.activation(f"{name}.expand.act", y, block.activation)
    y = graph.conv_bn(
        f"{name}.depthwise",
        y,
        block.expand,
        block.expand,
        kernel=block.kernel,
        stride=block.stride,
        dilation=block.dilation,
        group=block.expand,
    )
    y = graph.activation(f"{name}.depthwise.act", y, block.activation)
    if block.squeeze:
        y = _squeeze_excite(graph, f"{name}.se", y, block.expand)
    y = graph.conv_bn(f"{name}.project", y, block.expand, block.out)
    if block.stride == 1 and block.out == channels:
        y = graph.node("Add", f"{name}.residual", [x, y])
    return y


def _squeeze_excite(graph: "_GraphWriter", name: str, x: str, channels: int) -> str:
    squeezed = squeeze_channels(channels)
    s = graph.node("GlobalAveragePool", f"{name}.pool", [x])
    s = graph.conv_bias(f"{name}.reduce", s, channels, squeezed)
    s = graph.node("Relu", f"{name}.relu", [s])
    s = graph.conv_bias(f"{name}.expand", s, squeezed, channels)
    s = graph.hardsigmoid(f"{name}.gate", s)
    return graph.node("Mul", f"{name}.scale", [s, x])


_ELEMENTWISE = ("Add", "Clip", "Mul", "Div", "Relu")


class _GraphWriter:
    """Collects nodes and initialisers; every method appends and returns its output's name."""

    def __init__(self, spec: ModelSpec) -> None:
        self._padding = spec.padding
        self._sides = {INPUT: spec.resolution}  # of the feature maps, by tensor
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def node(
        self, op_type: str, name: str, inputs: list[str], output: str = "", **attributes: Any
    ) -> str:
        output = output or f"{name}.output"
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        if op_type in _ELEMENTWISE:
            self._sides[output] = max(self._sides.get(name, 1) for name in inputs)
        return output

    def conv_bn(
        self,
        name: str,
        x: str,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        group: int = 1,
    ) -> str:
        side = self._sides[x]
        before, after = pads(self._padding, side, kernel, stride, dilation)
        weight = self._parameter(
            f"{name}.conv.weight", (channels_out, channels_in // group, kernel, kernel)
        )
        y = self.node(
            "Conv",
            f"{name}.conv",
            [x, weight],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            dilations=[dilation, dilation],
            group=group,
        )
        suffixes = ("weight", "bias", "running_mean", "running_var")
        statistics = [self._parameter(f"{name}.bn.{s}", (channels_out,)) for s in suffixes]
        y = self.node(
            "BatchNormalization", f"{name}.bn", [y, *statistics], epsilon=BATCHNORM_EPSILON
        )
        self._sides[y] = (side + before + after - (kernel - 1) * dilation - 1) // stride + 1
        return y

    def conv_bias(self, name: str, x: str, channels_in: int, channels_out: int) -> str:
        weight = self._parameter(f"{name}.weight", (channels_out, channels_in, 1, 1))
        bias = self._parameter(f"{name}.bias", (channels_out,))
        return self.node("Conv", name, [x, weight, bias], kernel_shape=[1, 1])

    def gemm(
        self, name: str, x: str, channels_in: int, channels_out: int, output: str = ""
    ) -> str:
        weight = self._parameter(f"{name}.weight", (channels_out, channels_in))
        bias = self._parameter(f"{name}.bias", (channels_out,))
        return self.node("Gemm", name, [x, weight, bias], output, transB=1)

    def activation(self, name: str, x: str, activation: Activation) -> str:
        if activation == "relu":
            return self.node("Relu", name, [x])
        y = self._relu6_of_shifted(name, x)
        y = self.node("Mul", f"{name}.mul", [x, y])
        return self.node("Div", f"{name}.div", [y, self._constant("hardswish.six", 6.0)])

    def hardsigmoid(self, name: str, x: str) -> str:
        y = self._relu6_of_shifted(name, x)
        return self.node("Div", f"{name}.div", [y, self._constant("hardswish.six", 6.0)])

    def model(self, spec: ModelSpec) -> onnx.ModelProto:
        shape = list(spec.input_shape)
        graph = helper.make_graph(
            self._nodes,
            spec.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [spec.batch, spec.classes])],
            list(self._initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="mbv3c",
        )
        metadata = {
            "variant": spec.variant,
            "width": f"{spec.width:g}",
            "width_rule": spec.width_rule,
            "padding": spec.padding,
            "minimalistic": str(spec.minimalistic).lower(),
            "dilated": str(spec.dilated).lower(),
            "reduced_tail": str(spec.reduced_tail).lower(),
            "resolution": str(spec.resolution),
            "seed": str(spec.seed),
            "mean": json.dumps(PREPROCESSING_MEAN),
            "std": json.dumps(PREPROCESSING_STD),
        }
        helper.set_model_props(model, {f"mbv3c.{key}": value for key, value in metadata.items()})
        return model

    def _relu6_of_shifted(self, name: str, x: str) -> str:
        three = self._constant("hardswish.three", 3.0)
        bounds = [self._constant("hardswish.zero", 0.0), self._constant("hardswish.six", 6.0)]
        y = self.node("Add", f"{name}.add", [x, three])
        return self.node("Clip", f"{name}.clip", [y, *bounds])

    def _constant(self, name: str, value: float) -> str:
        return self._store(name, np.array(value, np.float32))

    def _parameter(self, name: str, shape: tuple[int, ...]) -> str:
        return self._store(name, np.zeros(shape, np.float32))

    def _store(self, name: str, value: NDArray[np.float32]) -> str:
        self._initializers[name] = numpy_helper.from_array(value, name)
        return name
