"""Write ONNX nodes and initialisers, spelled as training frameworks export them."""

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbv3c.graphs.spec import (
    PREPROCESSING_MEAN,
    PREPROCESSING_STD,
    Activation,
    ModelSpec,
    pads,
)

OPSET = 17
IR_VERSION = 8  # the ONNX IR version that belongs to opset 17

INPUT = "input"
OUTPUT = "logits"

_ELEMENTWISE = ("Add", "Clip", "Mul", "Div", "Relu")


def add_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Add metadata under the prefix `mbv3c.`."""
    for key, value in entries.items():
        model.metadata_props.add(key=f"mbv3c.{key}", value=value)


class GraphWriter:
    """Collects nodes and initialisers; every method appends and returns its output's name."""

    def __init__(self, spec: ModelSpec) -> None:
        self._padding = spec.padding
        self._epsilon = spec.bn_epsilon
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
        epsilon: float | None = None,
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
            "BatchNormalization", f"{name}.bn", [y, *statistics], epsilon=epsilon or self._epsilon
        )
        self._sides[y] = (side + before + after - (kernel - 1) * dilation - 1) // stride + 1
        return y

    def conv(self, name: str, x: str, channels_in: int, channels_out: int) -> str:
        """Write a 1x1 convolution with neither bias nor BatchNormalization."""
        weight = self._parameter(f"{name}.weight", (channels_out, channels_in, 1, 1))
        return self.node("Conv", name, [x, weight], kernel_shape=[1, 1])

    def upsample(self, name: str, x: str, factor: int, output: str = "") -> str:
        """Write a bilinear upsampling of the map by a whole factor, corners not aligned."""
        scales = self._store(f"{name}.scales", np.array([1, 1, factor, factor], np.float32))
        return self.node(
            "Resize",
            name,
            [x, "", scales],
            output,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

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

    def model(self, spec: ModelSpec, output_shape: tuple[int, ...]) -> onnx.ModelProto:
        """Return the whole model; `output_shape` is that of OUTPUT."""
        graph = helper.make_graph(
            self._nodes,
            spec.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, spec.input_shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output_shape)],
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
            "head": spec.head,
            "width": f"{spec.width:g}",
            "width_rule": spec.width_rule,
            "padding": spec.padding,
            "minimalistic": str(spec.minimalistic).lower(),
            "dilated": str(spec.dilated).lower(),
            "reduced_tail": str(spec.reduced_tail).lower(),
            "bn_epsilon": f"{spec.bn_epsilon:g}",
            "resolution": str(spec.resolution),
            "mean": json.dumps(PREPROCESSING_MEAN),
            "std": json.dumps(PREPROCESSING_STD),
        }
        add_metadata(model, metadata)
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
