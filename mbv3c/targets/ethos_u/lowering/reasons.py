"""Why operators of ONNX stay off an Ethos-U, and what to change in the network, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """Why an operator is not on the NPU.

    Attributes:
        why: the reason.
        change: what to change in the network, so that the operator is gone or on the NPU.
    """

    why: str
    change: str


IN_FP32 = Reason(
    "fp32 in the quantized model",
    "quantize its result (--keep-float 0 where compile left it so), or end the network before it",
)
BEHIND_THE_CUT = Reason(
    "behind operators of the CPU, and a bundle holds one command stream",
    "change those in front, as said of them",
)
OTHER = Reason(
    "no integer form that an Ethos-U computes",
    "take it out of the network, or move it behind the last layer with weights",
)
_STATISTICS = Reason(
    "its statistics are those of each input",
    "train with BatchNormalization, which goes into the convolutions",
)
_TOKENS = Reason(
    "it changes which axis holds the channels, and the device has N, H, W, C",
    "keep maps of N, C, H, W, with a Conv of 1x1 in place of a layer over tokens",
)
_PRODUCT = Reason(
    "a product of two computed tensors, or of more than a vector",
    "make it a Conv of 1x1 with stored weights",
)
_RECURRENT = Reason(
    "a loop over steps", "put convolutions over the steps in its place, or move it behind the NPU"
)
_COMPARISON = Reason(
    "comparisons and masks have no form in int8 here",
    "write it with Relu, Clip or Mul by a stored mask",
)
_CHOICE = Reason(
    "what it picks depends on the values",
    "end the network before it, and pick on the CPU",
)
_EXPONENTIALS = Reason(
    "exponentials and a sum over an axis, too coarse in int8",
    "end the network before it, or gate with HardSigmoid in its place",
)
_CONVOLUTION = Reason(
    "strides above 3, or weights that are computed",
    "use strides up to 3, one convolution behind another, and stored weights",
)
_WINDOWS = Reason(
    "strides above 3, windows above 64 or dilation",
    "pool by smaller windows, one behind another, without dilation",
)
_MOVES = Reason(
    "it moves elements across axes, in too many pieces, or puts numbers other than 0 there",
    "keep to whole channels, rows and columns, and pad with zeros",
)
_ARITHMETIC = Reason(
    "an operand is computed, in fp32, or of another shape than a map, a channel or one number",
    "use Add, Sub or Mul of quantized maps, or a stored number for each channel",
)

REASONS: dict[str, Reason] = {
    **dict.fromkeys(("Conv", "ConvInteger"), _CONVOLUTION),
    "ConvTranspose": Reason(
        "groups, or strides above 8", "use one group or as many as channels, and strides up to 8"
    ),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _WINDOWS),
    "Resize": Reason(
        "neither to the nearest pixel nor, by a whole number, half-pixel and linear",
        'enlarge by a whole number, in mode nearest, or linear with "half_pixel"',
    ),
    "GridSample": Reason("where it reads is computed", "enlarge by Resize in its place"),
    **dict.fromkeys(
        (
            *("InstanceNormalization", "GroupNormalization", "LayerNormalization"),
            *("LpNormalization", "MeanVarianceNormalization", "ReduceL1", "ReduceL2"),
            *("ReduceSumSquare", "LRN"),
        ),
        _STATISTICS,
    ),
    **dict.fromkeys(("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"), _TOKENS),
    **dict.fromkeys(("MatMul", "Gemm", "Einsum"), _PRODUCT),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Loop", "Scan", "If"), _RECURRENT),
    **dict.fromkeys(
        ("Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or"),
        _COMPARISON,
    ),
    **dict.fromkeys(("TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero"), _CHOICE),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _EXPONENTIALS),
    **dict.fromkeys(
        ("Slice", "Split", "Pad", "Tile", "Expand", "Gather", "DepthToSpace", "SpaceToDepth"),
        _MOVES,
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"), _ARITHMETIC),
    **dict.fromkeys(
        ("ReduceMean", "ReduceMax", "ReduceSum"),
        Reason(
            "not over pixels, rows, columns or all channels, or windows above 256",
            "reduce over one of these at a time, with keepdims=1 over channels",
        ),
    ),
    "Concat": Reason("a stored part, or more than 16", "join computed maps, 16 at a time"),
}


_EVEN_IN_INT8 = (_STATISTICS, _RECURRENT, _COMPARISON)


def reason_of(op_type: str, *, quantized: bool) -> Reason:
    """Return why an operator is not on the NPU; `quantized`: whether its results are."""
    reason = REASONS.get(op_type, OTHER)
    return reason if quantized or reason in _EVEN_IN_INT8 else IN_FP32
