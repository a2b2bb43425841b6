"""Spell onnxruntime's own operators as those of ONNX that they were made of.

    FusedConv(x, w, b, z; activation)      ⇒   Conv(x, w, b) → Add(z) → activation
    FusedGemm(a, b, c; activation)         ⇒   Gemm(a, b, c) → activation
    FusedMatMul(a, b; transA, alpha)       ⇒   MatMul(Transpose(a), b) → Mul(alpha)
    QuickGelu(x; alpha)                    ⇒   Mul(x, Sigmoid(Mul(x, alpha)))
    SkipLayerNormalization(x, s, g, b, c)  ⇒   LayerNormalization(x + s + c, g, b)
    Gelu(x), BiasGelu(x, b), FastGelu(x)   ⇒   x / 2 · (1 + Erf(x / √2)), or with Tanh
    QuantizeLinear, DequantizeLinear of com.microsoft   ⇒   those of ONNX, or of 16 bits before
        opset 21, which has them, Cast(Clip(Round(x / s) + z)) and (Cast(q) - z) · s; weights of
        4 bits are stored with 8 before it

A model that onnxruntime saved after optimising it holds them; its quantizer writes the last two.
What it lays out for one processor (the domain com.microsoft.nchwc) stays, and is refused later on.
Source: onnxruntime's docs/ContribOperators.md.
"""

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mbv3c.graphs.count import tensors_read
from mbv3c.passes.names import FreeNames
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.upgrade_opset import opset_of

NAME = "undo_fusions"
DOMAIN = "com.microsoft"
FOR_ONE_PROCESSOR = ("com.microsoft.nchwc", "com.ms.internal.nhwc")  # domains
LAID_OUT = (
    "onnxruntime laid this file out for one processor: give the model as it was before, or have "
    "onnxruntime optimise it with ORT_ENABLE_EXTENDED at most"
)
_WITH_16_BITS = 21  # the opset
_OF_16_BITS = (TensorProto.INT16, TensorProto.UINT16)
_OF_4_BITS = (TensorProto.INT4, TensorProto.UINT4)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def undo_fusions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Take apart what onnxruntime fused."""
    before = len(model.graph.node)
    if not any(node.domain == DOMAIN for node in model.graph.node):
        return model, PassReport(NAME, (), (), before, before, False)
    undone = onnx.ModelProto()
    undone.CopyFrom(model)
    del undone.graph.node[:]
    matched, refused = list[str](), list[Refusal]()
    around = _Around(model, undone)
    for node in model.graph.node:
        spell = _SPELLINGS.get(node.op_type) if node.domain == DOMAIN else None
        spelling = _Spelling(node, around)
        try:
            if spell is not None:
                spell(spelling)
        except _StaysError as error:
            refused.append(Refusal(spelling.name, str(error)))
            spell = None
        if spell is None:
            undone.graph.node.append(node)
            continue
        matched.append(spelling.name)
        undone.graph.node.extend(spelling.nodes)
    read = {name for node in undone.graph.node for name in tensors_read(node)}
    for tensor in [*undone.graph.initializer]:
        if tensor.data_type in _OF_4_BITS and tensor.name not in read:
            undone.graph.initializer.remove(tensor)
    after = len(undone.graph.node)
    report = PassReport(NAME, tuple(matched), tuple(refused), before, after, bool(matched))
    return (undone if matched else model), report


class _StaysError(Exception):
    """Why a node cannot be spelled in ONNX's operators."""


class _Around:
    """What the nodes of a graph have in common.

    Attributes:
        graph: the graph that takes constants.
        opset: version of the default operator set.
        free: function that gives a new name.
        dtype: the one type of the model's inputs and constants of floats; None if it has several.
    """

    def __init__(self, model: onnx.ModelProto, undone: onnx.ModelProto) -> None:
        self.graph, self.opset = undone.graph, opset_of(model)
        self._undone = undone
        self.free = FreeNames(model.graph).take
        kinds = {value.type.tensor_type.elem_type for value in model.graph.input}
        kinds |= {tensor.data_type for tensor in model.graph.initializer}
        floats = kinds & {*_FLOATS}
        self.dtype = helper.tensor_dtype_to_np_dtype(floats.pop()) if len(floats) == 1 else None

    def inferred_ranks(self) -> dict[str, int]:
        """Return the ranks of what the nodes so far make, as far as they are known."""
        inferred = onnx.shape_inference.infer_shapes(self._undone)
        kinds = ((value.name, value.type.tensor_type) for value in inferred.graph.value_info)
        return {name: len(kind.shape.dim) for name, kind in kinds if kind.HasField("shape")}


class _Spelling:
    """What stands in the place of a node.

    Attributes:
        name: name of the node.
        inputs: its inputs, without those that are left out at the end.
        outputs: its outputs.
        nodes: the nodes so far; the last one is to make the node's first output.
    """

    def __init__(self, node: onnx.NodeProto, around: _Around) -> None:
        self.name = node.name or node.output[0]
        self.inputs = list(node.input)
        self.nodes: list[onnx.NodeProto] = []
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.outputs, self._output = list(node.output), node.output[0]
        self._around = around

    def since(self, opset: int, what: str) -> None:
        """Make sure that the model's opset has what is to be written.

        Raises:
            _StaysError: it is older.
        """
        if self._around.opset < opset:
            raise _StaysError(f"{what} needs opset {opset}, the model has {self._around.opset}")

    def take(self, name: str, default: Any) -> Any:
        """Take an attribute out of those that are left."""
        return self._attributes.pop(name, default)

    def rest(self) -> dict[str, Any]:
        """Return the attributes that nothing has taken."""
        return self._attributes

    def input(self, position: int) -> str:
        """Return an input; empty if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def add(self, op_type: str, *inputs: str | float, **attributes: Any) -> str:
        """Append a node and return its output; numbers among the inputs become constants."""
        position = len(self.nodes)
        output = self._around.free(f"{self._output}.{position}")
        names = [
            self._stored(value, f"{output}.{place}") if isinstance(value, float) else value
            for place, value in enumerate(inputs)
        ]
        name = f"{self.name}.{op_type.lower()}{position}"
        self.nodes.append(helper.make_node(op_type, names, [output], name, **attributes))
        return output

    def end(self, op_type: str, *inputs: str | float, **attributes: Any) -> None:
        """Append the node that makes the output."""
        self.add(op_type, *inputs, **attributes)
        self.nodes[-1].output[0] = self._output
        self.nodes[-1].name = self.name

    def rename(self, made: str, output: str) -> None:
        """Let what makes a tensor make another output of the node."""
        maker = next(node for node in self.nodes if made in node.output)
        maker.output[0] = output

    def _stored(self, value: float, name: str) -> str:
        if self._around.dtype is None:
            raise _StaysError("the model computes in several types, and this one is not known")
        free = self._around.free(name)
        tensor = numpy_helper.from_array(np.array(value, self._around.dtype), free)
        self._around.graph.initializer.append(tensor)
        return free

    def size(self, name: str) -> int:
        """Return the number of elements of a constant; 0 for anything else."""
        return int(np.prod(self._constant(name).dims)) if self._constant(name).name else 0

    def in_bytes(self, name: str, op_type: str) -> str:
        """Store a constant of 4 bits with 8, in which older opsets dequantize it, too.

        Raises:
            _StaysError: it is no constant.
        """
        stored = self._constant(name)
        if not stored.name:
            raise _StaysError(f"{op_type} of 4 bits that are computed needs opset {_WITH_16_BITS}")
        free = self._around.free(f"{name}.bytes")
        kind = np.int8 if stored.data_type == TensorProto.INT4 else np.uint8
        values = numpy_helper.to_array(stored).astype(kind)
        self._around.graph.initializer.append(numpy_helper.from_array(values, free))
        return free

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self._around.opset

    def kind(self, name: str) -> int:
        """Return the element type of a constant; 0 for anything else."""
        return int(self._constant(name).data_type)

    def whole(self, name: str) -> tuple[float, tuple[float, float], int]:
        """Return a stored whole number, the limits of its type, and the type."""
        value = numpy_helper.to_array(self._constant(name))
        limits = np.iinfo(value.dtype)
        kind = self.kind(name)
        return float(value.reshape(-1)[0]), (float(limits.min), float(limits.max)), kind

    def _constant(self, name: str) -> onnx.TensorProto:
        stored = (each for each in self._around.graph.initializer if each.name == name)
        return next(stored, onnx.TensorProto())

    def rank(self, name: str) -> int:
        """Return the number of dimensions of a tensor.

        Raises:
            _StaysError: nothing says it.
        """
        graph = self._around.graph
        for value in (*graph.input, *graph.value_info):
            if value.name == name and value.type.tensor_type.HasField("shape"):
                return len(value.type.tensor_type.shape.dim)
        for tensor in graph.initializer:
            if tensor.name == name:
                return len(tensor.dims)
        rank = self._around.inferred_ranks().get(name)
        if rank is not None:
            return rank
        raise _StaysError(f"the rank of {name!r} is not known")


def _end_activated(spelling: _Spelling, x: str, activation: bytes, values: list[float]) -> None:
    name = activation.decode()
    if name == "Clip":
        spelling.since(11, name)
        spelling.end("Clip", x, *values)
    elif name in ("Relu", "Sigmoid", "Tanh", "HardSwish"):
        spelling.since(14 if name == "HardSwish" else 1, name)
        spelling.end(name, x)
    elif name == "LeakyRelu":
        spelling.end(name, x, alpha=values[0] if values else 0.01)
    elif name == "HardSigmoid":
        alpha, beta = values or (0.2, 0.5)
        spelling.end(name, x, alpha=alpha, beta=beta)
    else:
        raise _StaysError(f"its activation {name!r} has no other spelling")


def _conv(spelling: _Spelling) -> None:
    activation = spelling.take("activation", b"")
    values = [float(value) for value in spelling.take("activation_params", ())]
    steps: list[tuple[str, list[str]]] = [("Conv", [x for x in spelling.inputs[:3] if x])]
    if spelling.input(3):
        steps.append(("Add", [spelling.input(3)]))
    x = ""
    for op_type, operands in steps:
        attributes = spelling.rest() if op_type == "Conv" else {}
        last = not activation and op_type == steps[-1][0]
        inputs = [*([x] if x else []), *operands]
        x = (spelling.end if last else spelling.add)(op_type, *inputs, **attributes) or ""
    if activation:
        _end_activated(spelling, x, activation, values)


def _gemm(spelling: _Spelling) -> None:
    activation = spelling.take("activation", b"")
    parameters = [spelling.take(f"activation_{key}", None) for key in ("alpha", "beta", "gamma")]
    values = [float(value) for value in parameters if value is not None]
    if len(spelling.inputs) < 3:
        spelling.since(11, "Gemm without a bias")
    if not activation:
        spelling.end("Gemm", *spelling.inputs, **spelling.rest())
        return
    product = spelling.add("Gemm", *spelling.inputs, **spelling.rest())
    _end_activated(spelling, product, activation, values)


def _matmul(spelling: _Spelling) -> None:
    if spelling.take("transBatchA", 0) or spelling.take("transBatchB", 0):
        raise _StaysError("it moves the batch (transBatchA, transBatchB)")
    alpha, operands = spelling.take("alpha", 1.0), list(spelling.inputs)
    for position, side in enumerate(("transA", "transB")):
        if spelling.take(side, 0):
            rank = spelling.rank(operands[position])
            if rank == 1:
                continue
            perm = [*range(rank - 2), rank - 1, rank - 2]
            operands[position] = spelling.add("Transpose", operands[position], perm=perm)
    if alpha == 1:
        spelling.end("MatMul", *operands)
    else:
        spelling.end("Mul", spelling.add("MatMul", *operands), float(alpha))


def _quick_gelu(spelling: _Spelling) -> None:
    x = spelling.input(0)
    scaled = spelling.add("Mul", x, float(spelling.take("alpha", 1.702)))
    spelling.end("Mul", x, spelling.add("Sigmoid", scaled))


def _gelu(spelling: _Spelling) -> None:
    spelling.since(9, "Erf")
    x = _biased(spelling)
    _end_gelu(spelling, x, spelling.add("Erf", spelling.add("Mul", x, 1 / sqrt(2))))


def _fast_gelu(spelling: _Spelling) -> None:
    x = _biased(spelling)
    cube = spelling.add("Mul", spelling.add("Mul", x, x), x)
    inner = spelling.add("Add", x, spelling.add("Mul", cube, 0.044715))
    _end_gelu(spelling, x, spelling.add("Tanh", spelling.add("Mul", inner, sqrt(2 / pi))))


def _biased(spelling: _Spelling) -> str:
    x, bias = spelling.input(0), spelling.input(1)
    return spelling.add("Add", x, bias) if bias else x


def _skip_layer_norm(spelling: _Spelling) -> None:
    """Of its further outputs, the sum of its operands is the last one."""
    spelling.since(17, "LayerNormalization")
    x, skip, gamma, beta, bias = (spelling.input(position) for position in range(5))
    if any(spelling.outputs[1:3]):
        raise _StaysError("its mean or its deviation is read")
    total = spelling.add("Add", x, skip)
    if bias:
        total = spelling.add("Add", total, bias)
    if len(spelling.outputs) > 3 and spelling.outputs[3]:
        spelling.rename(total, spelling.outputs[3])
        total = spelling.outputs[3]
    operands = [total, gamma, *([beta] if beta else [])]
    epsilon = spelling.take("epsilon", 1e-12)
    spelling.end("LayerNormalization", *operands, axis=-1, epsilon=epsilon)


def _end_gelu(spelling: _Spelling, x: str, curve: str) -> None:
    spelling.end("Mul", spelling.add("Mul", x, 0.5), spelling.add("Add", curve, 1.0))


def _as(op_type: str) -> Callable[[_Spelling], None]:
    def spell(spelling: _Spelling) -> None:
        kind = spelling.kind(spelling.input(2))
        if kind in _OF_16_BITS and spelling.opset < _WITH_16_BITS:
            _of_16_bits(spelling, op_type)
            return
        if kind in _OF_4_BITS and spelling.opset < _WITH_16_BITS:
            for position in (0, 2):
                spelling.inputs[position] = spelling.in_bytes(spelling.input(position), op_type)
        spelling.since(13 if spelling.size(spelling.input(1)) != 1 else 10, op_type)
        spelling.end(op_type, *spelling.inputs, **spelling.rest())

    return spell


def _of_16_bits(spelling: _Spelling, op_type: str) -> None:
    """Write what onnxruntime computes, in the same order; rounding is to even in both."""
    x, scale = spelling.input(0), spelling.input(1)
    if spelling.size(scale) != 1:
        raise _StaysError(f"{op_type} of 16 bits for each channel needs opset {_WITH_16_BITS}")
    spelling.since(11, f"{op_type} of 16 bits")
    zero, limits, kind = spelling.whole(spelling.input(2))
    if op_type == "DequantizeLinear":
        real = spelling.add("Cast", x, to=spelling.kind(scale))
        spelling.end("Mul", spelling.add("Sub", real, zero), scale)
        return
    rounded = spelling.add("Round", spelling.add("Div", x, scale))
    clipped = spelling.add("Clip", spelling.add("Add", rounded, zero), *limits)
    spelling.end("Cast", clipped, to=kind)


_SPELLINGS: dict[str, Callable[[_Spelling], None]] = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "TransposeMatMul": _matmul,
    "QuickGelu": _quick_gelu,
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "QuantizeLinear": _as("QuantizeLinear"),
    "DequantizeLinear": _as("DequantizeLinear"),
}
