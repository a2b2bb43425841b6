"""What an Ethos-U takes here: one image, and integers of int8."""

import onnx
from onnx import TensorProto

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.load import fixed_shape, model_inputs
from mbv3c.targets.ethos_u.devices import NpuOptions, NpuTarget
from mbv3c.targets.ethos_u.lowering.device_graph import ZERO_POINTS, is_cast_first

RANKS = (4, 3)  # of an image, 1xCxHxW, and of a row, 1xCxL


def check_image(model: onnx.ModelProto) -> None:
    """Refuse a model that does not take one image.

    Raises:
        UsageError: it takes another batch, no image, or more than one, or gives the image back.
        ModelError: the shape of its image is dynamic.
    """
    value = model_inputs(model)[0]
    others = [other.name for other in model_inputs(model)[1:]]
    if others:
        raise UsageError(
            f"an Ethos-U takes one image here; the model takes {value.name} and "
            f"{', '.join(others)}, too: use another target, or make the others constants"
        )
    if value.name in (output.name for output in model.graph.output):
        raise UsageError(
            f"the output {value.name!r} is the input itself, which an Ethos-U does not copy: "
            "leave it out of the export, or use another target"
        )
    kind = value.type.tensor_type.elem_type
    whole = kind in ZERO_POINTS and is_cast_first(model)
    if kind != TensorProto.FLOAT and not whole:
        dtype = TensorProto.DataType.Name(kind).lower()
        raise UsageError(
            "an Ethos-U takes an image in fp32, or of uint8 or int8 that a Cast makes fp32; "
            f"{value.name!r} is {dtype}\nput such a Cast first, or use another target"
        )
    shape = fixed_shape(value)
    if len(shape) not in RANKS or shape[0] != 1:
        raise UsageError(
            "an Ethos-U computes one image, 1x3xHxW, or one row, 1xCxL, at a time; the model's "
            f"input is {'x'.join(map(str, shape)) or 'a single number'}; "
            f"{_remedy(len(shape))}"
        )


def _remedy(rank: int) -> str:
    if rank == RANKS[0]:
        return "use --batch 1"
    if rank == RANKS[1]:
        return "if it is an image without a batch, give it an axis of 1 in front"
    return "use another target"


def check_types(quantized: onnx.ModelProto, target: NpuTarget) -> None:
    """Refuse a quantized model with integers other than int8.

    Raises:
        ModelError: there are some; the first is named.
    """
    zeros = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        # Without a zero point ONNX quantizes to uint8.
        zero = zeros.get(node.input[2]) if len(node.input) > 2 else TensorProto.UINT8
        if zero not in (None, TensorProto.INT8):
            dtype = TensorProto.DataType.Name(zero).lower()
            raise ModelError(
                f"{target.name} computes activations of int8 here, and {node.input[0]} is of "
                f"{dtype} (node {node.name}); quantize with --activations int8, or onnxruntime's "
                "quantizer with activation_type=QuantType.QInt8"
            )


def check_ends(quantized: onnx.ModelProto, options: NpuOptions) -> None:
    """Refuse conversions to and from fp32 around a model whose image is of whole numbers.

    Raises:
        UsageError: they were asked for.
    """
    value = model_inputs(quantized)[0]
    if options.float_io and value.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(
            f"--float-io is for images in fp32, and {value.name!r} holds whole numbers; leave it "
            "out: the device takes them as they are, uint8 less 128"
        )
