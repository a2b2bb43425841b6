"""A model's graph as torch runs and trains it. The graph is the one definition of the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as torch's users call it
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.parity.running import session
from mbv3c.passes.upgrade_opset import opset_of
from mbv3c.training.classifier import with_batch
from mbv3c.training.operators import Compute, Node, compute_of, node_of
from mbv3c.training.trainable import STATISTICS, Trainable, image_name

Tensors = dict[str, Any]  # torch's tensors by the names of initialisers

_APART = 1e-2  # of the largest score, or of 1: much more than rounding
_MOMENTUM = 0.9  # ONNX's default: the share that running statistics keep of themselves


@dataclass(frozen=True)
class Mode:
    """How BatchNormalization is computed.

    Attributes:
        training: whether by the statistics of the batch, which then go into the running ones.
        share: share of the running statistics that these become; None for the node's own.
    """

    training: bool
    share: float | None = None


INFERENCE, TRAINING = Mode(False), Mode(True)


@dataclass(frozen=True)
class _Step:
    compute: Compute
    inputs: tuple[str, ...]
    output: str
    normalizes: bool
    name: str


class Network:
    """A model's graph, whose tensors are handed in: weights and running statistics by name.

    Raises:
        ModelError: an operator is unknown; the message names the node.
    """

    def __init__(self, made: Trainable, device: str = "cpu") -> None:
        graph = made.graph
        self._image, self._scores = image_name(made), made.scores
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        constants = {name: value for name, value in stored.items() if name not in made.kinds}
        self._steps = _steps(made, constants)
        self._constants = {
            name: torch.from_numpy(np.array(value)).to(device)
            for name, value in constants.items()
            if any(name in step.inputs for step in self._steps)
        }
        values = {
            name: on_device(value, device) for name, value in stored.items() if name in made.kinds
        }
        kinds = made.kinds
        self.statistics = {name: x for name, x in values.items() if kinds[name] in STATISTICS}
        self.weights = {name: x for name, x in values.items() if kinds[name] not in STATISTICS}
        for weight in self.weights.values():
            weight.requires_grad_(True)
        last = {name: i for i, step in enumerate(self._steps) for name in step.inputs}
        self._done = [
            [name for name in step.inputs if last[name] == i] for i, step in enumerate(self._steps)
        ]

    def scores(self, x: Any, mode: Mode, weights: Tensors, statistics: Tensors) -> Any:
        """Return the class scores of images: one row for each, without a Softmax.

        Args:
            x: images, as the model takes them.
            mode: how BatchNormalization is computed.
            weights: weights by name.
            statistics: running means and variances by name; training changes them in place.
        """
        kept = {**self._constants, **weights, **statistics}
        values: Tensors = {self._image: x}
        for step, done in zip(self._steps, self._done, strict=True):
            given = [values[name] if name in values else kept[name] for name in step.inputs]
            try:
                values[step.output] = (
                    step.compute(mode, *given) if step.normalizes else step.compute(*given)
                )
            except (RuntimeError, IndexError) as error:
                raise ModelError(f"torch cannot compute {step.name}: {error}") from error
            for name in done:
                values.pop(name, None)
        return values[self._scores].flatten(1)


def check_network(network: Network, made: Trainable, x: Any) -> None:
    """Make sure that torch computes what onnxruntime does, before any time is spent.

    Args:
        network: a model as torch computes it.
        made: the model.
        x: a few images, as the model takes them.

    Raises:
        ModelError: it computes something else, or cannot compute a node.
    """
    with torch.no_grad():
        ours = network.scores(x, INFERENCE, network.weights, network.statistics).cpu().numpy()
    model = with_batch(made.model, len(x))
    if made.scores != model.graph.output[0].name:  # the Softmax behind them stays out
        if not any(made.scores in node.output for node in model.graph.node):
            return
        del model.graph.output[:]
        model.graph.output.add(name=made.scores)
    images = np.ascontiguousarray(x.cpu().numpy())
    (found,) = session(model).run(None, {image_name(made): images})
    theirs = found.reshape(ours.shape)
    if not np.isfinite(theirs).all():  # the loss will say so
        return
    apart = float(np.abs(ours - theirs).max())
    if not apart <= _APART * max(float(np.abs(theirs).max()), 1.0):
        raise ModelError(
            f"torch computes other class scores than onnxruntime, {apart:.3g} apart: an operator "
            "means something else here; train the model where it comes from, and report this"
        )


def on_device(value: NDArray[Any], device: str) -> Any:
    """Return an array as a tensor, of images and kernels with channels last."""
    tensor = torch.from_numpy(np.array(value, np.float32)).to(device)
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def arrays(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """Return copies of tensors as arrays."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), order="C")
        for name, tensor in tensors.items()
    }


def _steps(made: Trainable, constants: Mapping[str, NDArray[Any]]) -> list[_Step]:
    """Return what computes the class scores, in order."""
    opset = opset_of(made.model)
    needed, wanted = {made.scores}, []
    for proto in reversed(made.graph.node):
        if needed & set(proto.output):
            needed.update(proto.input)
            wanted.append(proto)
    steps = []
    for proto in reversed(wanted):
        node = node_of(proto, constants, opset)
        normalizes = node.operator == "BatchNormalization"
        compute = _batch_norm(node) if normalizes else compute_of(node)
        given = tuple(name for name in node.inputs if name)
        steps.append(_Step(compute, given, node.outputs[0], normalizes, node.name))
    return steps


def _batch_norm(node: Node) -> Compute:
    epsilon = node.attributes.get("epsilon", 1e-5)
    own = 1 - node.attributes.get("momentum", _MOMENTUM)

    def compute(mode: Mode, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
        share = own if mode.share is None else mode.share
        return F.batch_norm(x, mean, variance, scale, bias, mode.training, share, epsilon)

    return compute
