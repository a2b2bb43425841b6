"""Insert QuantizeLinear and DequantizeLinear by onnxruntime's quantizer, one pair per tensor.

    x → Conv(w, b) → Relu → y   ⇒   x → Q → DQ → Conv(DQ(w), DQ(b)) → Relu → Q → DQ → y

Nodes, tensors, inputs and outputs keep their names. Nothing is fused or removed, because other
compilers read the quantized graph.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference, version_converter
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from mbv3c.errors import ModelError
from mbv3c.graphs.count import tensors_read
from mbv3c.passes.upgrade_opset import converter_reason, opset_of
from mbv3c.quantization.layers import Layer, clamped_inside
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.ranges import Range

_IR_VERSION = {21: 10}  # the ONNX IR version that belongs to an opset
# The quantizer infers shapes through a file unless the model says that it has been done.
_INFERRED = ("onnx.infer", "onnxruntime.quant")
_RENAMED = "_QuantizeLinear_Input"  # what the quantizer appends to an output of the graph


@dataclass(frozen=True)
class QuantizedTensor:
    """How a tensor of the fp32 graph is quantized.

    Attributes:
        dequantized: name of the fp32 tensor after the DequantizeLinear.
        scale: size of one step.
        zero_point: the integer that stands for 0, in the integer type of the tensor.
    """

    dequantized: str
    scale: float
    zero_point: NDArray[np.int8 | np.int16]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value."""
        info = np.iinfo(self.zero_point.dtype)
        zero = int(self.zero_point)
        return (info.min - zero) * self.scale, (info.max - zero) * self.scale

    def apply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return these values quantized and dequantized."""
        info = np.iinfo(self.zero_point.dtype)
        zero = int(self.zero_point)
        scale = np.float32(self.scale)
        integers = np.clip(np.rint(x / scale) + zero, info.min, info.max)
        back: NDArray[np.float32] = ((integers - zero) * scale).astype(np.float32)
        return back


def in_quantizable_opset(model: onnx.ModelProto, options: QuantizeOptions) -> onnx.ModelProto:
    """Convert a model to an operator set that has its activations' type, if it is an older one.

    Raises:
        ModelError: the model cannot be converted.
    """
    wanted = options.activation_type.opset
    if opset_of(model) >= wanted:
        return model
    try:
        converted = version_converter.convert_version(model, wanted)
    except (version_converter.ConvertError, RuntimeError) as error:
        raise ModelError(
            f"{options.activations} activations need opset {wanted}, and the model cannot be "
            f"converted to it: {converter_reason(str(error))}; take int8"
        ) from error
    converted.ir_version = max(converted.ir_version, _IR_VERSION.get(wanted, 0))
    return converted


def insert_qdq(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    parts: Sequence[Layer],
    options: QuantizeOptions,
) -> onnx.ModelProto:
    """Return a copy in which these layers are quantized: weights, inputs and outputs.

    Args:
        model: the fp32 model, in an opset that has the activations' type, its nodes named.
        ranges: ranges of the model's tensors.
        parts: the layers to quantize, with the tensors between them and other layers.
        options: options, of which only the type of activations is used.

    Raises:
        ModelError: onnxruntime cannot quantize the model.
    """
    inferred = shape_inference.infer_shapes(model)
    nodes = [name for part in parts for name in part.nodes]
    if not nodes:
        return inferred
    inferred.metadata_props.add(key=_INFERRED[0], value=_INFERRED[1])
    outputs = list(inferred.graph.output)
    given = {value.name for value in inferred.graph.input}
    # The quantizer would give an output that is an input, too, a new maker.
    del inferred.graph.output[:]
    inferred.graph.output.extend(each for each in outputs if each.name not in given)
    touched = _touched(inferred, nodes)
    tensors = {
        name: TensorData(lowest=np.float32(bounds.low), highest=np.float32(bounds.high))
        for name, bounds in ranges.items()
        if name in touched
    }
    try:
        with _quiet():
            quantizer = QDQQuantizer(
                inferred,
                per_channel=True,
                reduce_range=False,
                weight_qType=TensorProto.INT8,
                activation_qType=options.activation_type.tensor_type,
                tensors_range=TensorsData(CalibrationMethod.MinMax, tensors),
                nodes_to_quantize=nodes,
                nodes_to_exclude=[],
                op_types_to_quantize=sorted({node.op_type for node in model.graph.node}),
                extra_options={
                    "ActivationSymmetric": False,
                    "WeightSymmetric": True,
                    "QDQKeepRemovableActivations": True,
                    "TensorQuantOverrides": _in_one_scale(inferred),
                },
            )
            quantized: onnx.ModelProto = quantizer.quantize_model()
            quantizer.model.topological_sort()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"onnxruntime cannot quantize the model: {error}") from error
    for at, output in enumerate(outputs):
        if output.name in given:
            quantized.graph.output.insert(at, output)
    _keep_constants(quantized, inferred)
    owners = {node: part for part in parts for node in part.nodes}
    _bypass(quantized, clamped_inside(model, owners))
    _keep_metadata(quantized, model)
    return quantized


def _in_one_scale(model: onnx.ModelProto) -> dict[str, list[dict[str, bool]]]:
    """Return what says that the weights of ConvTranspose in groups have one scale.

    An index along their second axis is a channel of every group, so it has no scale that the bias
    of a channel could be in.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[1]: [{"symmetric": True}]
        for node in model.graph.node
        if node.op_type == "ConvTranspose"
        and node.input[1] in stored
        and any(each.name == "group" and each.i > 1 for each in node.attribute)
    }


def quantized_tensors(model: onnx.ModelProto) -> dict[str, QuantizedTensor]:
    """Return how the activations of a QDQ graph are quantized, by name in the fp32 graph."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = _by_input(model.graph, "DequantizeLinear")
    tensors = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.output[0] not in readers:
            continue
        x, scale, zero = node.input
        dequantized = readers[node.output[0]].output[0]
        # At an output of the graph the quantizer renames the tensor before it, not the output.
        name = dequantized if x.endswith(_RENAMED) else x
        tensors[name] = QuantizedTensor(
            dequantized,
            float(numpy_helper.to_array(constants[scale])),
            numpy_helper.to_array(constants[zero]),
        )
    return tensors


def _by_input(graph: onnx.GraphProto, op_type: str) -> dict[str, onnx.NodeProto]:
    """Return the nodes of one operator by their first input."""
    return {node.input[0]: node for node in graph.node if node.op_type == op_type}


def _touched(model: onnx.ModelProto, names: Sequence[str]) -> set[str]:
    wanted = set(names)
    return {
        tensor
        for node in model.graph.node
        if node.name in wanted
        for tensor in (*node.input, *node.output)
    }


def _bypass(model: onnx.ModelProto, tensors: Collection[str]) -> None:
    """Remove the pair after each of these tensors."""
    graph = model.graph
    quantizers = _by_input(graph, "QuantizeLinear")
    dequantizers = _by_input(graph, "DequantizeLinear")
    instead: dict[str, str] = {}
    dropped: set[str] = set()
    for tensor in tensors:
        if tensor in quantizers:
            pair = (quantizers[tensor], dequantizers[quantizers[tensor].output[0]])
            instead[pair[1].output[0]] = tensor
            dropped.update(node.name for node in pair)
    kept = [node for node in graph.node if node.name not in dropped]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = instead.get(name, name)
    used = {name for node in kept for name in tensors_read(node)}
    used |= {output.name for output in graph.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)


def _keep_constants(quantized: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give the quantized model the constants that only graphs inside of nodes, or nobody, reads.

    The quantizer does not look into these graphs, and leaves out their constants, and outputs that
    are constant.
    """
    read = {name for node in quantized.graph.node for name in tensors_read(node)}
    read |= {output.name for output in quantized.graph.output}
    stored = {tensor.name for tensor in quantized.graph.initializer}
    stored |= {name for node in quantized.graph.node for name in node.output}
    quantized.graph.initializer.extend(
        tensor
        for tensor in model.graph.initializer
        if tensor.name in read and tensor.name not in stored
    )


def _keep_metadata(quantized: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give the quantized model the metadata and the producer of the fp32 one."""
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    quantized.producer_name = model.producer_name
    quantized.producer_version = model.producer_version


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer, which logs to the root logger, from advising our users."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
