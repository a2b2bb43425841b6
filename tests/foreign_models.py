"""Small models spelled and shaped like those that people bring, one for each kind.

Each is a bottleneck or two of MobileNetV3 between what makes the kind. They load in onnxruntime.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

SIDE = 32


@dataclass
class Net:
    """A graph that grows node by node; every method returns the name of what it made."""

    opset: int = 17
    ir_version: int = 8
    inputs: dict[str, tuple[int, tuple[int, ...]]] = field(
        default_factory=lambda: {"x": (TensorProto.FLOAT, (1, 3, SIDE, SIDE))}
    )
    domains: dict[str, int] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"constant{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op_type: str, *inputs: str, out: str = "", **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        node = helper.make_node(op_type, inputs, [out or f"{name}.out"], name, **attributes)
        self.nodes.append(node)
        return node.output[0]

    def conv(self, x: str, channels: tuple[int, int], *, kernel: int = 1, **more: int) -> str:
        read, made = channels
        group, stride = more.get("group", 1), more.get("stride", 1)
        shape = (made, read // group, kernel, kernel)
        weights = self.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        return self.add(
            "Conv",
            *(x, self.constant(weights), self.constant(self.random.normal(0, 0.2, made))),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=group,
        )

    def reduce(self, op_type: str, x: str, axis: int) -> str:
        """Reduce an axis, which becomes an input in opset 18."""
        if self.opset < 18:
            return self.add(op_type, x, axes=[axis], keepdims=1)
        return self.add(op_type, x, self.constant([axis], np.int64), keepdims=1)

    def trunk(self, x: str = "x", swish: str = "Relu") -> str:
        """Return 32 channels of a quarter of the side, behind squeeze-and-excite."""
        a = self.add("Relu", self.conv(x, (3, 16), kernel=3, stride=2))
        b = self.add(swish, self.conv(a, (16, 16), kernel=3, stride=2, group=16))
        squeezed = self.add("Relu", self.conv(self.add("GlobalAveragePool", b), (16, 8)))
        gate = self.add("HardSigmoid", self.conv(squeezed, (8, 16)), alpha=1 / 6)
        return self.add("Relu", self.conv(self.add("Mul", b, gate), (16, 32)))

    def head(self, x: str, classes: int = 10, out: str = "") -> str:
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        weights = self.random.normal(0, 0.3, (classes, 32))
        bias = self.random.normal(0, 0.3, classes)
        operands = (flat, self.constant(weights), self.constant(bias))
        return self.add("Gemm", *operands, transB=1, out=out)

    def model(
        self, *outputs: str, functions: tuple[onnx.FunctionProto, ...] = ()
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [
                helper.make_tensor_value_info(name, kind, shape)
                for name, (kind, shape) in self.inputs.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.stored,
        )
        opsets = {"": self.opset, **self.domains}
        made = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*each) for each in opsets.items()],
            ir_version=self.ir_version,
            functions=functions,
        )
        return with_outputs(made)


_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(bool)": TensorProto.BOOL,
}


def with_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write the types and shapes of the outputs, as onnxruntime sees them."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs = [
        helper.make_tensor_value_info(each.name, _TYPES[each.type], each.shape)
        for each in session.get_outputs()
    ]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def plain() -> onnx.ModelProto:
    net = Net()
    return net.model(net.head(net.trunk(swish="HardSwish")))


def constant_nodes() -> onnx.ModelProto:
    """paddle2onnx: every weight is a Constant node at the top; a feature pyramid in opset 11."""
    net = Net(opset=11, ir_version=7)
    x = net.conv(net.trunk(), (32, 16))
    up = net.add(
        "Resize",
        *(x, net.constant([]), net.constant([1, 1, 2, 2])),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return constants_as_nodes(net.model(net.add("Sigmoid", net.conv(up, (16, 1), kernel=3))))


def listed_initializers() -> onnx.ModelProto:
    """torch, keep_initializers_as_inputs: BatchNormalization whose statistics are inputs."""
    net = Net(opset=11, ir_version=6)
    x = net.conv("x", (3, 32), kernel=3, stride=2)
    statistics = [net.random.uniform(0.5, 1.5, 32) for _ in range(4)]
    x = net.add("BatchNormalization", x, *map(net.constant, statistics))
    model = net.model(net.head(net.add("Relu", x)))
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    return model


def pixels() -> onnx.ModelProto:
    """Keras: NHWC from 0 to 255, Rescaling(1 / 127.5, -1)."""
    net = Net(inputs={"x": (TensorProto.FLOAT, (1, SIDE, SIDE, 3))})
    scaled = net.add("Mul", "x", net.constant(1 / 127.5))
    moved = net.add("Add", scaled, net.constant(-1))
    return net.model(net.head(net.trunk(net.add("Transpose", moved, perm=[0, 3, 1, 2]))))


def one_number() -> onnx.ModelProto:
    """A yes/no classifier."""
    net = Net()
    return net.model(net.add("Sigmoid", net.head(net.trunk(), classes=1)))


def saturated() -> onnx.ModelProto:
    """Scores that are 0 nearly everywhere."""
    net = Net()
    low = net.add("Sub", net.conv(net.trunk(), (32, 4)), net.constant(40))
    return net.model(net.add("Sigmoid", low))


def tokens() -> onnx.ModelProto:
    """Tokens, a product over their channels, and back to a map: hybrids and text recognisers."""
    net = Net()
    x = net.add("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    x = net.add("Reshape", x, net.constant([1, 64, 32], np.int64))
    x = net.add("MatMul", x, net.constant(net.random.normal(0, 0.2, (32, 32))))
    x = net.add("Reshape", x, net.constant([1, 8, 8, 32], np.int64))
    x = net.add("Transpose", x, perm=[0, 3, 1, 2])
    return net.model(net.head(net.add("Relu", net.conv(x, (32, 32)))))


def functions() -> onnx.ModelProto:
    """Modules as functions that call each other."""
    net = Net(domains={"own": 1})
    x = net.add("swish", net.conv(net.trunk(), (32, 32)), domain="own")
    opset, own = helper.make_opsetid("", 17), helper.make_opsetid("own", 1)
    gate = [helper.make_node("HardSigmoid", ["a"], ["b"], "gate", alpha=1 / 6)]
    swish = [
        helper.make_node("gate", ["a"], ["g"], "call", domain="own"),
        helper.make_node("Mul", ["a", "g"], ["b"], "product"),
    ]
    made = (
        helper.make_function("own", "swish", ["a"], ["b"], swish, [opset, own]),
        helper.make_function("own", "gate", ["a"], ["b"], gate, [opset]),
    )
    return net.model(net.head(x), functions=made)


def constant_branch() -> onnx.ModelProto:
    """torch.jit.script: an If whose condition is a constant."""
    net = Net()
    x = net.trunk()
    branches = {}
    for key, op_type in (("then_branch", "Relu"), ("else_branch", "Sigmoid")):
        value = helper.make_tensor_value_info(key, TensorProto.FLOAT, None)
        node = helper.make_node(op_type, [x], [key], key)
        branches[key] = helper.make_graph([node], key, [], [value])
    y = net.add("If", net.constant(True, np.bool_), **branches)
    return net.model(net.head(y))


def branch_on_values() -> onnx.ModelProto:
    model = constant_branch()
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], "mean", keepdims=0)
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    greater = helper.make_node("Greater", ["mean", "zero"], ["condition"], "condition")
    for node in model.graph.node:
        if node.op_type == "If":
            node.input[0] = "condition"
    nodes = [mean, greater, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(zero)
    return model


def output_twice() -> onnx.ModelProto:
    net = Net()
    y = net.head(net.trunk())
    return net.model(net.add("Identity", y), net.add("Identity", y))


def output_and_its_name() -> onnx.ModelProto:
    """Scores, and the same tensor under another name, behind what an NPU leaves to the CPU."""
    net = Net()
    x = net.head(net.add("LpNormalization", net.trunk(), axis=1))
    return net.model(x, net.add("Identity", x))


def features() -> onnx.ModelProto:
    """A backbone: maps of several strides, which the next convolutions read, too."""
    net = Net()
    first = net.add("Relu", net.conv("x", (3, 16), kernel=3, stride=2))
    second = net.add("Relu", net.conv(first, (16, 24), kernel=3, stride=2))
    third = net.add("Relu", net.conv(second, (24, 32), kernel=3, stride=2))
    return net.model(first, second, third)


def half_inside() -> onnx.ModelProto:
    """Weights and arithmetic in fp16 between two Casts."""
    net = Net()
    x = net.add("Cast", "x", to=TensorProto.FLOAT16)
    weights = net.constant(net.random.normal(0, 0.2, (32, 3, 3, 3)), np.float16)
    x = net.add("Relu", net.add("Conv", x, weights, strides=[2, 2], pads=[1, 1, 1, 1]))
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    x = net.add("MatMul", x, net.constant(net.random.normal(0, 0.2, (32, 10)), np.float16))
    return net.model(net.add("Cast", x, to=TensorProto.FLOAT))


def fused_by_onnxruntime() -> onnx.ModelProto:
    """FusedConv and FusedGemm, as files hold them that onnxruntime optimised."""
    net = Net(domains={"com.microsoft": 1})
    model = net.model(net.head(net.trunk(swish="Clip")))
    # Clip without bounds does nothing; Relu goes into its convolution.
    makers = {node.output[0]: node for node in model.graph.node}
    for node in list(model.graph.node):
        maker = makers.get(node.input[0])
        if node.op_type == "Relu" and maker is not None and maker.op_type == "Conv":
            maker.op_type, maker.domain = "FusedConv", "com.microsoft"
            maker.attribute.append(helper.make_attribute("activation", "Relu"))
            maker.output[0] = node.output[0]
            model.graph.node.remove(node)
    return with_outputs(model)


def resized(opset: int = 17, **attributes: object) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(opset=opset)
        x = net.conv(net.trunk(), (32, 4))
        if opset < 11:
            return net.model(net.add("Resize", x, net.constant([1, 1, 4, 4]), **attributes))
        sizes = net.constant([1, 4, 27, 21], np.int64)
        return net.model(net.add("Resize", x, "", "", sizes, **attributes))

    return build


def quantized(
    activation: type = np.int8, weight: type = np.int8, spelling: str = ""
) -> Callable[[], onnx.ModelProto]:
    """Return a builder of a quantized network: three convolutions and a classifier in fp32."""

    def build() -> onnx.ModelProto:
        net = Net()
        middle = {np.int8: 0, np.uint8: 128}

        def ends(scale: float, kind: type) -> tuple[str, ...]:
            values = (net.constant(scale), net.constant(middle[kind], kind))
            return values[:1] if spelling == "no zero point" else values

        def pair(x: str) -> str:
            scale = ends(0.05, activation)
            q = net.add("QuantizeLinear", x, *scale)
            if spelling == "torch":
                q = net.add(
                    "Cast", q, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(activation)))
                )
            return net.add("DequantizeLinear", q, *scale)

        def dequantized(shape: tuple[int, ...]) -> str:
            drawn = np.rint(net.random.normal(0, 40, shape))
            integers = np.clip(drawn, -127, 127)
            scale = ends(0.004, weight)
            if spelling.startswith("nine bits"):
                zero = np.full(shape[0], 100, np.uint8)
                zero[::3] -= 1 if spelling.endswith("of channels") else 0
                stored = np.clip(2 * drawn + 100, 0, 255)
                steps = net.constant(np.full(shape[0], 0.002)), net.constant(zero, np.uint8)
                constant = net.constant(stored, np.uint8)
                return net.add("DequantizeLinear", constant, *steps, axis=0)
            if spelling == "fake quantization":
                weights = net.add("QuantizeLinear", net.constant(integers * 0.004), *scale)
            else:
                weights = net.constant(integers + middle[weight], weight)
            return net.add("DequantizeLinear", weights, *scale)

        def conv(x: str, read: int, made: int, group: int = 1, stride: int = 1) -> str:
            kernel = 3 if read == 3 or group > 1 else 1
            weights = dequantized((made, read // group, kernel, kernel))
            bias = net.constant(net.random.normal(0, 0.2, made))
            sums = net.add(
                "Conv",
                *(pair(x), weights, bias),
                group=group,
                strides=[stride, stride],
                pads=[kernel // 2] * 4,
            )
            if spelling != "normalised":
                return sums
            statistics = [net.constant(net.random.uniform(0.5, 1.5, made)) for _ in range(4)]
            return net.add("BatchNormalization", sums, *statistics)

        x = net.add("Relu", conv("x", 3, 16, stride=2))
        x = net.add("Relu", conv(x, 16, 16, group=16, stride=2))
        x = net.add("Relu", conv(x, 16, 32))
        if spelling == "a pair for every reader":
            x = net.add("Add", pair(x), net.add("HardSwish", pair(x)))
        model = net.model(net.head(pair(x)))
        return constants_as_nodes(model) if spelling == "torch" else model

    return build


def constants_as_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = [
        helper.make_node("Constant", [], [tensor.name], tensor.name, value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def quantized_dynamically() -> onnx.ModelProto:
    net = Net()
    x = net.add("Flatten", net.add("GlobalAveragePool", net.trunk()))
    names = ["integers", "scale", "zero"]
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names, "steps"))
    weights = net.constant(net.random.integers(-100, 100, (32, 10)), np.int8)
    sums = net.add("Cast", net.add("MatMulInteger", "integers", weights, "zero"), to=1)
    return net.model(net.add("Mul", sums, net.add("Mul", "scale", net.constant(0.01))))


def integer_operators() -> onnx.ModelProto:
    """onnxruntime's quantizer with QuantFormat.QOperator: QLinearConv between two conversions.

    The weights have seven bits, as `reduce_range` makes them: on x86 without VNNI onnxruntime adds
    two products in 16 bits, where larger ones saturate.
    """
    net = Net()
    scale, zero = net.constant(0.05), net.constant(120, np.uint8)
    x = net.add("QuantizeLinear", "x", scale, zero)
    for read, made in ((3, 16), (16, 32)):
        weights = net.constant(net.random.integers(-64, 64, (made, read, 3, 3)), np.int8)
        steps = net.constant(net.random.uniform(1e-3, 3e-3, made))
        zeros = net.constant(np.zeros(made), np.int8)
        bias = net.constant(net.random.integers(-500, 500, made), np.int32)
        operands = (x, scale, zero, weights, steps, zeros, scale, zero, bias)
        x = net.add("QLinearConv", *operands, strides=[2, 2], pads=[1, 1, 1, 1])
    return net.model(net.head(net.add("DequantizeLinear", x, scale, zero)))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "nothing odd": plain,
    "weights as Constant nodes, feature pyramid (paddle2onnx)": constant_nodes,
    "initialisers listed as inputs (torch)": listed_initializers,
    "NHWC pixels, normalised in the graph (Keras)": pixels,
    "one number out": one_number,
    "scores of nearly 0 everywhere": saturated,
    "tokens and back to a map": tokens,
    "functions of the model's own": functions,
    "If with a constant condition": constant_branch,
    "one tensor as two outputs": output_twice,
    "an output, and once more by another name": output_and_its_name,
    "maps of several strides as outputs": features,
    "fp16 between Casts": half_inside,
    "saved by onnxruntime (FusedConv)": fused_by_onnxruntime,
    "Resize of opset 10, linear": resized(10, mode="linear"),
    "Resize to any size, linear": resized(mode="linear"),
    "Resize to any size, nearest": resized(mode="nearest"),
    "Resize to any size, cubic": resized(mode="cubic"),
    "Resize with antialias": resized(18, mode="linear", antialias=1),
    "If on values of the input": branch_on_values,
    "quantized dynamically": quantized_dynamically,
}
QUANTIZED: dict[str, Callable[[], onnx.ModelProto]] = {
    "int8": quantized(),
    "uint8 activations": quantized(activation=np.uint8),
    "uint8 weights": quantized(weight=np.uint8),
    "no zero points": quantized(activation=np.uint8, spelling="no zero point"),
    "scales as Constant nodes, Casts (torch)": quantized(np.uint8, spelling="torch"),
    "QLinearConv (QuantFormat.QOperator)": integer_operators,
    "weights under fake quantization": quantized(spelling="fake quantization"),
    "weights of nine bits": quantized(spelling="nine bits"),
    "weights of nine bits, zero points of channels": quantized(spelling="nine bits of channels"),
    "BatchNormalization between pairs": quantized(spelling="normalised"),
    "a pair for every reader": quantized(spelling="a pair for every reader"),
}
