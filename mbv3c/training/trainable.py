"""A model's graph as it is trained: which of its stored tensors are weights, and of what kind."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from mbv3c.errors import ModelError
from mbv3c.graphs.load import model_input
from mbv3c.passes import applied
from mbv3c.passes.drop_noops import drop_noops
from mbv3c.passes.explicit_pads import explicit_pads
from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from mbv3c.passes.fuse_hardswish import FuseHardSwish
from mbv3c.passes.global_pool import MeanToGlobalPool
from mbv3c.passes.inline_functions import inline_functions
from mbv3c.passes.lift_constants import lift_constants
from mbv3c.passes.names import FreeNames
from mbv3c.passes.resolve_castlike import ResolveCastLike
from mbv3c.passes.simplify import simplify
from mbv3c.passes.upgrade_opset import upgrade_opset
from mbv3c.training.classifier import with_batch

Kind = Literal["kernel", "matrix", "bias", "scale", "slope", "mean", "variance"]
STATISTICS: tuple[Kind, Kind] = ("mean", "variance")

# What the inputs of an operator are, from the second on.
_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "Conv": ("kernel", "bias"),
    "Gemm": ("matrix", "bias"),
    "MatMul": ("matrix",),
    "BatchNormalization": ("scale", "bias", "mean", "variance"),
    "PRelu": ("slope",),
}
# What makes initialisers of all weights, and what computes shapes and constants beforehand.
_STORED = (inline_functions, lift_constants)
_COMPUTING = ("CastLike", "ConstantOfShape", "Expand", "Shape")
_TURNING = ("Reshape", "Squeeze", "Transpose", "Unsqueeze")  # where they turn stored weights
_COMPUTED = (upgrade_opset, ResolveCastLike(), simplify, lift_constants)
# What writes an activation as one operator, and what is left for torch.
_PASSES = (
    explicit_pads,
    drop_noops,
    MeanToGlobalPool(),
    FuseHardSigmoid(),
    FuseHardSwish(),
)


@dataclass(frozen=True)
class Trainable:
    """A model as it is trained.

    Attributes:
        model: the model that the weights are stored in: the given one, but that its constants are
            initialisers, its functions part of the graph, and what computes constants is gone.
        graph: what is computed, for any batch.
        kinds: what each weight is for, by its name in both; every other tensor stays as it is.
        scores: name of the tensor with the class scores, before a Softmax.
        normalized: whether there is a BatchNormalization.
    """

    model: onnx.ModelProto
    graph: onnx.GraphProto
    kinds: Mapping[str, Kind]
    scores: str
    normalized: bool


def trainable(model: onnx.ModelProto, batch: int) -> Trainable:
    """Find a model's weights.

    Args:
        model: a classifier.
        batch: number of images at once.

    Raises:
        ModelError: there are no weights, they are not of fp32, or a node has a batch built in.
    """
    model = _stored(model)
    rewritten = with_batch(model, batch)
    for rewrite in _PASSES:
        rewritten, _ = applied(rewrite, rewritten)
    graph = rewritten.graph
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    kinds = _kinds(graph, set(stored))
    if not any(kind in ("kernel", "matrix") for kind in kinds.values()):
        raise ModelError(
            "the model has no weights to train: no convolution or linear layer has its weights "
            "stored; a quantized model is trained before it is quantized"
        )
    other = [name for name in kinds if stored[name].data_type != TensorProto.FLOAT]
    if other:
        raise ModelError(f"the weights {other[0]!r} are not of fp32; export the model in fp32")
    return Trainable(
        model,
        graph,
        kinds,
        _before_softmax(graph),
        any(node.op_type == "BatchNormalization" for node in graph.node),
    )


def _stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its weights in initialisers, and without what computes constants."""
    for rewrite in _STORED:
        model, _ = applied(rewrite, model)
    stored = {tensor.name for tensor in model.graph.initializer}
    if any(
        node.op_type in _COMPUTING or (node.op_type in _TURNING and node.input[0] in stored)
        for node in model.graph.node
    ):
        for rewrite in _COMPUTED:
            model, _ = applied(rewrite, model)
    return _with_own_statistics(model)


def _with_own_statistics(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with means and variances that nothing else reads.

    Exporters store equal tensors once, such as the ones that are a scale and a variance.
    """
    readers = Counter(name for node in model.graph.node for name in node.input)
    graph = model.graph
    if not any(
        readers[name] > 1
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:]
    ):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    free = FreeNames(copy.graph)
    for node in copy.graph.node:
        for place in (3, 4) if node.op_type == "BatchNormalization" else ():
            name = node.input[place]
            if readers[name] > 1 and name in stored:
                own = copy.graph.initializer.add()
                own.CopyFrom(stored[name])
                readers[name] -= 1
                node.input[place] = own.name = free.take(name)
    return copy


def _kinds(graph: onnx.GraphProto, stored: set[str]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    products = set()
    for node in graph.node:
        inputs = list(node.input)
        if node.op_type == "MatMul":
            products.add(node.output[0])
            if inputs[0] in stored:  # a row of weights times a column
                inputs = inputs[::-1]
        for name, kind in zip(inputs[1:], _KINDS.get(node.op_type, ()), strict=False):
            if name in stored:
                kinds.setdefault(name, kind)
        if node.op_type == "Add" and products & set(inputs):
            kinds.update((name, "bias") for name in inputs if name in stored)
    return kinds


def _before_softmax(graph: onnx.GraphProto) -> str:
    """Return the output of a graph, or what its last Softmax reads."""
    name: str = graph.output[0].name
    makers = {output: node for node in graph.node for output in node.output}
    while (maker := makers.get(name)) is not None and maker.op_type in ("Softmax", "Identity"):
        name = maker.input[0]
    return name


def with_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy of a model with other initialisers of these names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            value = np.asarray(weights[tensor.name], np.float32).reshape(tuple(tensor.dims))
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return copy


def image_name(made: Trainable) -> str:
    """Return the name of the input that takes the image."""
    name: str = model_input(made.model).name
    return name
