"""Cut channels out of a network, the weakest first, with everything that follows them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.graphs.groups import Part
from mbv3c.search.channels import Channels, Site

Array = NDArray[np.float64]

_GATE_GRAIN = 8  # of the middle of a gate that was a multiple of it, as in MobileNetV3
# Metadata of the builder that a cut makes untrue.
_OF_LAYERS = frozenset(
    f"mbv3c.{name}"
    for name in ("architecture", "network", "variant", "width", "width_rule", "reduced_tail")
)


def gate_channels(now: int, kept: int, channels: int) -> int:
    """Return the width of a gate's middle on `channels` of which some are kept: in proportion."""
    grain = _GATE_GRAIN if now % _GATE_GRAIN == 0 else 1
    return min(now, max(grain, int(now * kept / channels / grain + 0.5) * grain))


class Cutter:
    """Cuts channels out of one model, as often as one likes.

    Args:
        model: a float model with fixed shapes.

    Attributes:
        sites: the sites of the model, in its order.

    Raises:
        ModelError: the model is quantized.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._channels = Channels(model)
        self._weights = _Weights(self._channels.ties.model)
        self._orders: dict[str, NDArray[np.int64]] = {}
        self.sites = self._channels.sites()

    def cut(self, kept: Mapping[Site, Sequence[int]]) -> onnx.ModelProto:
        """Return a model in which sites have only some of their channels.

        The middles of gates on a site keep their strongest channels, in proportion. Names of
        nodes, inputs and outputs stay; what the cut leaves of a channel is what it was. Constants
        that several nodes shared have become one each.

        Args:
            kept: for each site the channels that it keeps: rising, at least one.

        Raises:
            ValueError: a site is not the model's, or keeps channels that it does not have.
        """
        known = {site.name: site for site in self.sites}
        wanted: dict[str, list[int]] = {}
        for site, indices in kept.items():
            numbers = [int(index) for index in indices]
            whole = known.get(site.name)
            if whole is None or numbers != sorted(set(numbers)) or not numbers:
                raise ValueError(f"{site.name}: no site, or its channels are not in rising order")
            if numbers[0] < 0 or numbers[-1] >= whole.channels:
                raise ValueError(f"{site.name} has {whole.channels} channels")
            wanted[site.name] = numbers
            for gate in whole.gates:
                now = self._channels.group(gate).channels
                count = gate_channels(now, len(numbers), whole.channels)
                wanted[gate] = self._strongest(gate, count)
        return self._without(wanted)

    def narrower(self, site: Site, count: int) -> onnx.ModelProto:
        """Return the model with only the strongest channels of one site."""
        return self.cut({site: self.strongest(site, count)})

    def strongest(self, site: Site, count: int) -> list[int]:
        """Return the channels of a site that do most, rising.

        A channel's strength is the product of the L2 norms of what writes it, what filters it
        depthwise, and what reads it; several of a kind (the blocks of a residual group) count as
        one long vector. BatchNormalization's scale, over the deviation that it divides by, belongs
        to the filters: a network has the same order before and after folding. The layers of a gate
        do not count.

        Args:
            site: one of the model's sites.
            count: how many channels to keep, 1 to all.
        """
        return self._strongest(site.name, count)

    def _strongest(self, name: str, count: int) -> list[int]:
        if name not in self._orders:
            self._orders[name] = np.argsort(-self._strengths(name), kind="stable")
        return sorted(int(index) for index in self._orders[name][:count])

    def _strengths(self, name: str) -> Array:
        """Return the strength of each channel of a group."""
        channels, ties = self._channels, self._channels.ties
        number, norms = channels.names[name], self._weights.norms
        written = [
            layer
            for layer in channels.written[number]
            if channels.gated.get(ties.groups.number(layer.reads)) != number
        ]
        read = [
            layer
            for layer in channels.read[number]
            if channels.gated.get(ties.groups.number(layer.writes)) != number
        ]
        factors = (
            [norms(layer.node, Part("", layer.written), layer.written) for layer in written],
            [norms(node, Part("", 0), 0) for node in ties.groups[number].depthwise],
            [norms(layer.node, layer.read, layer.written) for layer in read],
        )
        strength = np.ones(ties.groups[number].channels)
        for factor in factors:
            if factor:
                strength *= np.sqrt(np.sum(np.square(factor), axis=0))
        return strength

    def _without(self, wanted: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
        """Return the model with only some channels of groups, by the groups' names."""
        model = onnx.ModelProto()
        model.CopyFrom(self._channels.ties.model)
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, indices in wanted.items():
            group = self._channels.group(name)
            kept = np.asarray(indices)
            for part in group.parts:
                entries = (kept[:, None] * part.inner + np.arange(part.inner)).reshape(-1)
                array = numpy_helper.to_array(stored[part.tensor])
                _store(stored[part.tensor], array.take(entries, part.axis))
            for extent in group.extents:
                shape = numpy_helper.to_array(stored[extent.tensor]).copy()
                shape[extent.entry] = len(indices) * extent.inner
                _store(stored[extent.tensor], shape)
            for position in group.depthwise:
                attributes = model.graph.node[position].attribute
                next(each for each in attributes if each.name == "group").i = len(indices)
        del model.graph.value_info[:]
        true = [each for each in model.metadata_props if each.key not in _OF_LAYERS]
        del model.metadata_props[:]
        model.metadata_props.extend(true)
        return model


def _store(tensor: onnx.TensorProto, array: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


class _Weights:
    """The weights of a graph with the scales of BatchNormalizations behind them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = model.graph.node
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        self._users = users

    def norms(self, position: int, part: Part, written: int) -> Array:
        """Return the L2 norm of a layer's weights for each channel along an axis.

        Args:
            position: position of the node.
            part: the axis, and how many entries each channel has along it.
            written: the axis of the output channels.
        """
        node = self._nodes[position]
        weight = self._array(node.input[1])
        scale = self._scale(node)
        if scale is not None:
            shape = [1] * weight.ndim
            shape[written] = -1
            weight = weight * scale.reshape(shape)
        rows = np.moveaxis(weight, part.axis, 0)
        rows = rows.reshape(len(rows) // part.inner, -1)
        norms: Array = np.sqrt(np.square(rows).sum(axis=1))
        return norms

    def _scale(self, node: onnx.NodeProto) -> Array | None:
        """Return what a BatchNormalization multiplies a layer's outputs by, if one follows."""
        users = self._users.get(node.output[0], [])
        if len(users) != 1 or users[0].op_type != "BatchNormalization":
            return None
        _, scale, _, _, variance = users[0].input
        epsilon = next((a.f for a in users[0].attribute if a.name == "epsilon"), 1e-5)
        factor: Array = self._array(scale) / np.sqrt(self._array(variance) + epsilon)
        return factor

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self._stored[name]).astype(np.float64)
