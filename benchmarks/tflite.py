"""Write our graphs as TFLite files, so that LiteRT computes the networks that mbv3c compiles.

    N, C, H, W fp32   →  N, H, W, C fp32
    Q → DQ pairs      →  int8 tensors with their scales and zero points
    Conv → Relu       →  CONV_2D or DEPTHWISE_CONV_2D that ends in RELU
    Conv → Clip(0, 1) →  fp32: weights times 6, RELU6; what reads the product has weights over 6
                         int8: the steps of the result, which end at 0 and 1
    HardSwish         →  HARD_SWISH, or in int8 ADD of 3 that ends in RELU6, then MUL: XNNPACK
                         takes these and not the first, and 6 times the result is read as above;
                         where an Add reads it, a MUL by 1/6 with the same steps follows

Only what MobileNetV3 of `mbv3c build` has, after `mbv3c optimize`, is written; all else is refused
by its name. The schema is that of TensorFlow Lite, version 3, in the classes that LiteRT brings.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.layouts import attributes_of, channels_last, same_pads

_VERSION, _IDENTIFIER = 3, b"TFL3"
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}
# What TensorFlow Lite's converter writes for a network that may be computed in fp16.
_HALF = ("reduced_precision_support", b"fp16accfp16")
_SIX = 6.0  # what a gate in fp32, and a hard-swish in parts, is larger than in our graph
_GATE_STEP, _GATE_ZERO = 1 / 255, -128


class UnknownGraphError(ValueError):
    """The graph holds what is not written here."""


@dataclass(frozen=True)
class _Steps:
    """What integers stand for: scales, a zero point, and the axis of the scales."""

    scales: NDArray[np.float32]
    zero: int = 0
    axis: int = 0


@dataclass(frozen=True)
class _Stored:
    """A constant, as floats or as integers with their steps."""

    values: NDArray[Any]
    steps: _Steps | None = None


def tflite_of(
    model: onnx.ModelProto, *, swish_in_parts: bool = False, half: bool = False
) -> bytes:
    """Return a TFLite file that computes what a MobileNetV3 computes, for an input of N, H, W, C.

    Args:
        model: one of `mbv3c build` after `mbv3c optimize`, in fp32, or quantized from it.
        swish_in_parts: whether hard-swish in int8 is ADD and MUL, so that XNNPACK takes all.
        half: whether the file allows XNNPACK to compute and to sum in fp16, where a processor can.

    Raises:
        UnknownGraphError: the graph has something else.
    """
    return _Writer(onnx.shape_inference.infer_shapes(model).graph, swish_in_parts).written(half)


@dataclass
class _Writer:
    graph: onnx.GraphProto
    swish_in_parts: bool
    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    operators: list[Any] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)  # of values beside our graph's

    def __post_init__(self) -> None:
        self.stored = {
            one.name: _Stored(numpy_helper.to_array(one)) for one in self.graph.initializer
        }
        self.readers = defaultdict[str, list[onnx.NodeProto]](list)
        for node in self.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        known = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.shapes = {
            one.name: tuple(d.dim_value for d in one.type.tensor_type.shape.dim) for one in known
        }
        self.done: set[str] = set()  # outputs that another operator has taken in

    def written(self, half: bool) -> bytes:
        given = [one.name for one in self.graph.input if one.name not in self.stored]
        for name in given:
            self.places[name] = self._tensor(name, self.shapes[name], np.float32)
        for node in self.graph.node:
            if node.output[0] not in self.done:
                self._write(node)
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs = [self.places[name] for name in given]
        graph.outputs = [self.places[one.name] for one in self.graph.output]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = _VERSION, [graph], self.buffers
        model.operatorCodes = list(map(_code, self.codes))
        if half:
            model.metadata = [self._metadata(*_HALF)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _write(self, node: onnx.NodeProto) -> None:
        write = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "HardSwish": self._hardswish,
            "GlobalAveragePool": self._pool,
            "Mul": self._mul,
            "Add": self._add,
            "Flatten": self._flatten,
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
        }.get(node.op_type)
        if write is None:
            raise UnknownGraphError(f"{node.op_type} {node.name!r} is not written here")
        write(node)

    def _conv(self, node: onnx.NodeProto) -> None:
        attributes = attributes_of(node)
        weight, source = self.stored[node.input[1]], node.input[0]
        groups, channels = attributes.get("group", 1), weight.values.shape[0]
        if attributes.get("dilations", [1, 1]) != [1, 1] or groups not in (1, channels):
            raise UnknownGraphError(f"Conv {node.name!r} is dilated, or in groups")
        strides = attributes.get("strides", [1, 1])
        pads = attributes.get("pads", [0, 0, 0, 0])
        kernel = weight.values.shape[2:]
        place = self.places[source]
        same = pads == same_pads(self.shapes_of(place)[1:3], kernel, strides)
        if not same and any(pads):
            place = self._padded(place, pads)
        order, axis = ((1, 2, 3, 0), 3) if groups > 1 else ((0, 2, 3, 1), 0)
        options = schema.DepthwiseConv2DOptionsT() if groups > 1 else schema.Conv2DOptionsT()
        if groups > 1:
            options.depthMultiplier = 1
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.strideH, options.strideW = strides
        options.dilationHFactor = options.dilationWFactor = 1
        kind = "DEPTHWISE_CONV_2D" if groups > 1 else "CONV_2D"
        self._weighted(kind, node, place, (order, axis), options)

    def _gemm(self, node: onnx.NodeProto) -> None:
        if attributes_of(node) != {"transB": 1}:
            raise UnknownGraphError(f"Gemm {node.name!r} is no layer of weights")
        options = schema.FullyConnectedOptionsT()
        self._weighted("FULLY_CONNECTED", node, self.places[node.input[0]], ((0, 1), 0), options)

    def _weighted(
        self,
        kind: str,
        node: onnx.NodeProto,
        place: int,
        layout: tuple[Sequence[int], int],
        options: Any,
    ) -> None:
        """Write a layer with weights, and the activation behind it."""
        order, axis = layout
        weight, bias = (self.stored[name] for name in node.input[1:])
        name, activation = node.output[0], schema.ActivationFunctionType.NONE
        behind = self._only_reader(name)
        kind_behind = "" if behind is None else behind.op_type
        factor = 1 / self._factor(node.input[0])
        if behind is not None and kind_behind in ("Relu", "Clip"):
            name = behind.output[0]
            self.done.add(name)
        if kind_behind == "Relu":
            activation = schema.ActivationFunctionType.RELU
        if behind is not None and kind_behind == "Clip":
            if [float(self.stored[one].values) for one in behind.input[1:]] != [0, 1]:
                raise UnknownGraphError(f"Clip {behind.name!r} has other bounds than 0 and 1")
            if weight.steps is None:
                activation, factor = schema.ActivationFunctionType.RELU6, factor * _SIX
                bias = _Stored(bias.values * np.float32(_SIX))
                self.factors[name] = _SIX
        options.fusedActivationFunction = activation
        values, steps = weight.values.transpose(order), weight.steps
        if steps is None:
            values = values * np.float32(factor)
        else:
            steps = _Steps(steps.scales * np.float32(factor), steps.zero, axis)
        inputs = [place, self._constant(node.input[1], _Stored(values, steps))]
        inputs.append(self._constant(node.input[2], bias))
        output = self._output(name)
        if steps is not None and kind_behind == "Clip":
            found = self.tensors[output].quantization
            if not np.isclose(found.scale[0], _GATE_STEP) or found.zeroPoint[0] != _GATE_ZERO:
                raise UnknownGraphError(f"the steps of {name} do not end at 0 and 1")
        self._operator(kind, inputs, [output], options)

    def _padded(self, place: int, pads: Sequence[int]) -> int:
        top, left, bottom, right = pads
        n, h, w, c = self.shapes_of(place)
        source = self.tensors[place]
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        padded = self._tensor(f"{source.name}.padded", (), np.float32)
        self.tensors[padded].shape = [n, h + top + bottom, w + left + right, c]
        self.tensors[padded].type = source.type
        self.tensors[padded].quantization = source.quantization
        amount = self._constant(f"{source.name}.pads", _Stored(amounts))
        self._operator("PAD", [place, amount], [padded], schema.PadOptionsT())
        return padded

    def _hardswish(self, node: onnx.NodeProto) -> None:
        (source,), (name,) = node.input, node.output
        place = self.places[source]
        if self.tensors[place].quantization is None or not self.swish_in_parts:
            self._operator("HARD_SWISH", [place], [self._output(name)], schema.HardSwishOptionsT())
            return
        options = schema.AddOptionsT()
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
        three = _Stored(np.array([127], np.int8), _Steps(np.array([3 / 127], np.float32)))
        steps = _Steps(np.array([_SIX / 255], np.float32), -128)
        clipped = self._tensor(f"{name}.clipped", self.shapes[source], np.int8, steps)
        self._operator("ADD", [place, self._constant(f"{name}.three", three)], [clipped], options)
        self.factors[name] = _SIX
        product = self._output(name)
        self._operator("MUL", [place, clipped], [product], schema.MulOptionsT())
        if self._is_added(name):
            self._divided(name, product)

    def _divided(self, name: str, product: int) -> None:
        """Write what divides 6 times a value by 6; the integers stay what they are."""
        sixth = _Stored(np.array([127], np.int8), _Steps(np.array([1 / _SIX / 127], np.float32)))
        steps = self.tensors[product].quantization
        true = _Steps(np.array(steps.scale / np.float32(_SIX)), int(steps.zeroPoint[0]))
        place = self._tensor(f"{name}.divided", self.shapes[name], np.int8, true)
        inputs = [product, self._constant(f"{name}.sixth", sixth)]
        self._operator("MUL", inputs, [place], schema.MulOptionsT())
        for old in [one for one, at in self.places.items() if at == product]:
            self.places[old], self.factors[old] = place, 1.0

    def _pool(self, node: onnx.NodeProto) -> None:
        options = schema.ReducerOptionsT()
        options.keepDims = True
        axes = self._constant(f"{node.output[0]}.axes", _Stored(np.array([1, 2], np.int32)))
        inputs = [self.places[node.input[0]], axes]
        self.factors[node.output[0]] = self._factor(node.input[0])
        self._operator("MEAN", inputs, [self._output(node.output[0])], options)

    def _mul(self, node: onnx.NodeProto) -> None:
        self.factors[node.output[0]] = float(np.prod([self._factor(name) for name in node.input]))
        self._of_two("MUL", node, schema.MulOptionsT())

    def _add(self, node: onnx.NodeProto) -> None:
        if {self._factor(name) for name in node.input} != {1.0}:
            raise UnknownGraphError(f"Add {node.name!r} reads what no layer of weights reads")
        self._of_two("ADD", node, schema.AddOptionsT())

    def _of_two(self, kind: str, node: onnx.NodeProto, options: Any) -> None:
        inputs = [self.places[name] for name in node.input]
        self._operator(kind, inputs, [self._output(node.output[0])], options)

    def _flatten(self, node: onnx.NodeProto) -> None:
        place = self.places[node.input[0]]
        n, h, w, c = self.shapes_of(place)
        if (h, w) != (1, 1):
            raise UnknownGraphError(f"Flatten {node.name!r} has more than a pixel")
        self.factors[node.output[0]] = self._factor(node.input[0])
        options, shape = schema.ReshapeOptionsT(), np.array([n, c], np.int32)
        options.newShape = shape
        inputs = [place, self._constant(f"{node.output[0]}.shape", _Stored(shape))]
        self._operator("RESHAPE", inputs, [self._output(node.output[0])], options)

    def _quantize(self, node: onnx.NodeProto) -> None:
        """Write the quantization of the input; all others are in what makes their tensor."""
        place = self._tensor(
            node.output[0], self.shapes[node.input[0]], np.int8, self._steps(node)
        )
        self._operator(
            "QUANTIZE", [self.places[node.input[0]]], [place], schema.QuantizeOptionsT()
        )
        self._name_pair(node, place)

    def _dequantize(self, node: onnx.NodeProto) -> None:
        """Take the integers of a constant, or write the end of the network."""
        name = node.input[0]
        if name in self.stored:
            scales = np.atleast_1d(self.stored[node.input[1]].values)
            self.stored[node.output[0]] = _Stored(self.stored[name].values, _Steps(scales))
            return
        output = self._tensor(node.output[0], self.shapes[node.output[0]], np.float32)
        self.places[node.output[0]] = output
        self._operator("DEQUANTIZE", [self.places[name]], [output], schema.DequantizeOptionsT())

    def _output(self, name: str) -> int:
        """Return a new tensor for a value: integers, if a pair follows."""
        behind = self._only_reader(name)
        if behind is None or behind.op_type != "QuantizeLinear":
            self.places[name] = self._tensor(name, self.shapes[name], np.float32)
            return self.places[name]
        steps = self._steps(behind)
        steps = _Steps(steps.scales * np.float32(self._factor(name)), steps.zero)
        place = self._tensor(name, self.shapes[name], np.int8, steps)
        self.places[name] = place
        self.done.add(behind.output[0])
        self._name_pair(behind, place)
        return place

    def _name_pair(self, quantize: onnx.NodeProto, place: int) -> None:
        self.places[quantize.output[0]] = place
        ends = {one.name for one in self.graph.output}
        for node in self.readers[quantize.output[0]]:
            if node.output[0] not in ends:
                self.places[node.output[0]] = place
                self.factors[node.output[0]] = self._factor(quantize.input[0])
                self.done.add(node.output[0])

    def _steps(self, node: onnx.NodeProto) -> _Steps:
        scale, zero = (self.stored[name].values for name in node.input[1:])
        if zero.dtype != np.int8:
            raise UnknownGraphError(f"{node.input[0]} is not quantized to int8")
        return _Steps(np.atleast_1d(scale), int(zero))

    def _factor(self, name: str) -> float:
        return self.factors.get(name, 1.0)

    def _is_added(self, name: str) -> bool:
        """Say whether an Add reads a value, behind its pair: then it has to be what it is."""
        quantized = [one.output[0] for one in self.readers[name]]
        pairs = [pair.output[0] for one in quantized for pair in self.readers[one]]
        return any(reader.op_type == "Add" for one in pairs for reader in self.readers[one])

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        return self.readers[name][0] if len(self.readers[name]) == 1 else None

    def shapes_of(self, place: int) -> list[int]:
        return list(self.tensors[place].shape)

    def _constant(self, name: str, stored: _Stored) -> int:
        place = self._tensor(name, (), stored.values.dtype, stored.steps)
        self.tensors[place].shape = list(stored.values.shape)
        self.tensors[place].buffer = self._buffer(np.ascontiguousarray(stored.values).tobytes())
        return place

    def _metadata(self, name: str, value: bytes) -> Any:
        metadata = schema.MetadataT()
        metadata.name, metadata.buffer = name, self._buffer(value)
        return metadata

    def _buffer(self, data: bytes) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _tensor(
        self, name: str, shape: Sequence[int], kind: Any, steps: _Steps | None = None
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = name, _TYPES[np.dtype(kind)], 0
        tensor.shape = channels_last(shape)
        if steps is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = steps.scales.astype(np.float32)
            tensor.quantization.zeroPoint = np.full(steps.scales.size, steps.zero, np.int64)
            tensor.quantization.quantizedDimension = steps.axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _operator(self, kind: str, inputs: list[int], outputs: list[int], options: Any) -> None:
        code = getattr(schema.BuiltinOperator, kind)
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs, operator.outputs = inputs, outputs
        name = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        operator.builtinOptions = options
        self.operators.append(operator)


def _code(builtin: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
    return code
