"""Write ONNX nodes and initialisers, spelled as training frameworks export them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from mbv3c.graphs.architecture import Activation, GateFunction
from mbv3c.graphs.outputs import CLASS_AXES
from mbv3c.graphs.spec import HEAD_TRAITS, V3, ModelSpec, pads

OPSET = 17
IR_VERSION = 8  # the ONNX IR version that belongs to opset 17

INPUT = "input"

_KEEPS_SIDES = ("Add", "Clip", "Mul", "Div", "Relu", "Concat")


def add_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Add metadata under the prefix `mbv3c.`."""
    for key, value in entries.items():
        model.metadata_props.add(key=f"mbv3c.{key}", value=value)


@dataclass(frozen=True)
class GraphOutput:
    """An output of a graph.

    Attributes:
        name: name of the tensor.
        shape: shape of the tensor.
        class_axis: axis of the classes; None if the tensor holds no class scores.
    """

    name: str
    shape: tuple[int, ...]
    class_axis: int | None


@dataclass(frozen=True)
class Features:
    """Names of the tensors on which a head may stand.

    Attributes:
        expansions: the activated expansion of every inverted residual block, in order; of a
            block without one, its input.
        blocks: the output of every inverted residual block, in order.
        last: the output of the last 1x1 convolution, activated; without one that of the last
            block.
        channels: how many channels `last` has.
    """

    expansions: tuple[str, ...]
    blocks: tuple[str, ...]
    last: str
    channels: int


def _layers(spec: ModelSpec) -> dict[str, str]:
    """Return the metadata that say which layers a network has."""
    pool = {"lraspp_pool": spec.lraspp_pool} if spec.head == "lraspp" else {}
    if spec.layers is not None:
        layers = {"architecture": json.dumps(asdict(spec.layers))}
        return {**layers, "head": spec.head, **pool, "padding": spec.padding}
    name = {"variant": spec.variant} if spec.network == V3 else {"network": spec.network}
    flags = ("dilated",) if spec.network != V3 else ("minimalistic", "dilated", "reduced_tail")
    return {
        **name,
        "head": spec.head,
        **pool,
        "width": f"{spec.width:g}",
        **({"width_rule": spec.width_rule} if spec.network == V3 else {}),
        "padding": spec.padding,
        **{flag: str(getattr(spec, flag)).lower() for flag in flags},
    }


class GraphWriter:
    """Collects nodes and initialisers; every method appends and returns its output's name."""

    def __init__(self, spec: ModelSpec) -> None:
        self._padding = spec.padding
        self._epsilon = spec.bn_epsilon
        self._sides = {INPUT: spec.resolution}  # of the feature maps, by tensor
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._notes: dict[str, str] = {}

    def note(self, key: str, value: str) -> None:
        """Add an entry to the model's metadata."""
        self._notes[key] = value

    def side(self, x: str) -> int:
        """Return height and width of a feature map."""
        return self._sides[x]

    def node(
        self, op_type: str, name: str, inputs: list[str], output: str = "", **attributes: Any
    ) -> str:
        output = output or f"{name}.output"
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        if op_type in _KEEPS_SIDES:
            self._sides[output] = max(self._sides.get(name, 1) for name in inputs)
        elif op_type == "GlobalAveragePool":
            self._sides[output] = 1
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
        epsilon: float | None = None,
    ) -> str:
        """Write a convolution without bias and a BatchNormalization."""
        weight = (channels_out, channels_in, kernel, kernel)
        return self._conv_bn(name, x, weight, stride, epsilon=epsilon)

    def depthwise_bn(
        self, name: str, x: str, channels: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> str:
        """Write a depthwise convolution without bias and a BatchNormalization."""
        weight = (channels, 1, kernel, kernel)
        return self._conv_bn(name, x, weight, stride, dilation, group=channels)

    def _conv_bn(
        self,
        name: str,
        x: str,
        weight_shape: tuple[int, int, int, int],
        stride: int,
        dilation: int = 1,
        group: int = 1,
        epsilon: float | None = None,
    ) -> str:
        channels_out, _, kernel, _ = weight_shape
        side = self._sides[x]
        before, after = pads(self._padding, side, kernel, stride, dilation)
        weight = self._parameter(f"{name}.conv.weight", weight_shape)
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
        scales = self.constant(f"{name}.scales", [1, 1, factor, factor])
        return self._resize(name, [x, "", scales], output)

    def resize(self, name: str, x: str, shape: tuple[int, ...]) -> str:
        """Write a bilinear resizing of the map, NCHW, corners not aligned."""
        sizes = self.constant(f"{name}.sizes", shape, "int64")
        y = self._resize(name, [x, "", "", sizes])
        self._sides[y] = shape[-1]
        return y

    def _resize(self, name: str, inputs: list[str], output: str = "") -> str:
        return self.node(
            "Resize",
            name,
            inputs,
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
        if activation == "relu6":
            return self.relu6(name, x)
        y = self._relu6_of_shifted(name, x)
        y = self.node("Mul", f"{name}.mul", [x, y])
        return self.node("Div", f"{name}.div", [y, self._six()])

    def gate(self, name: str, x: str, function: GateFunction) -> str:
        if function == "sigmoid":
            return self.node("Sigmoid", name, [x])
        y = self._relu6_of_shifted(name, x)
        return self.node("Div", f"{name}.div", [y, self._six()])

    def relu6(self, name: str, x: str) -> str:
        return self.node("Clip", name, [x, self.constant("hardswish.zero", 0.0), self._six()])

    def constant(self, name: str, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        return self._store(name, np.asarray(value, dtype))

    def model(self, spec: ModelSpec, outputs: Sequence[GraphOutput]) -> onnx.ModelProto:
        """Return the whole model."""
        graph = helper.make_graph(
            self._nodes,
            spec.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, spec.input_shape)],
            [helper.make_tensor_value_info(o.name, TensorProto.FLOAT, o.shape) for o in outputs],
            list(self._initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="mbv3c",
        )
        metadata = {
            **_layers(spec),
            "bn_epsilon": f"{spec.bn_epsilon:g}",
            "resolution": str(spec.resolution),
            "mean": json.dumps(HEAD_TRAITS[spec.head].mean),
            "std": json.dumps(HEAD_TRAITS[spec.head].std),
            CLASS_AXES: json.dumps({output.name: output.class_axis for output in outputs}),
            **self._notes,
        }
        add_metadata(model, metadata)
        return model

    def _relu6_of_shifted(self, name: str, x: str) -> str:
        three = self.constant("hardswish.three", 3.0)
        y = self.node("Add", f"{name}.add", [x, three])
        return self.relu6(f"{name}.clip", y)

    def _six(self) -> str:
        return self.constant("hardswish.six", 6.0)

    def _parameter(self, name: str, shape: tuple[int, ...]) -> str:
        return self._store(name, np.zeros(shape, np.float32))

    def _store(self, name: str, value: NDArray[Any]) -> str:
        self._initializers[name] = numpy_helper.from_array(value, name)
        return name
