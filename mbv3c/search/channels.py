"""The places of a network at which channels can be cut, found in its graph.

Nothing depends on names: MobileNetV2 and V3, MnasNet and a user's own network are read off the
nodes, with BatchNormalization or with folded weights.
"""

from dataclasses import dataclass
from typing import Literal

import onnx

from mbv3c.graphs.groups import Group, Layer
from mbv3c.graphs.ties import Ties, label
from mbv3c.search.separate import separated

Kind = Literal["stem", "expansion", "bottleneck", "tail", "hidden", "layer"]


@dataclass(frozen=True)
class Site:
    """Channels that can be made fewer, with everything that is tied to them.

    Attributes:
        name: name of the first node that writes them, by which a cut model knows the site, too.
        kind: `stem`: what reads the image; `expansion`: between an expansion and a projection;
            `bottleneck`: a projection's output, with all blocks that are added to it; `tail`: what
            is pooled for the classifier; `hidden`: a dense layer before the last; `layer`:
            anything else.
        channels: how many there are.
        gates: names of the groups in the middle of squeeze-and-excite branches on these channels:
            they become fewer in proportion.
    """

    name: str
    kind: Kind
    channels: int
    gates: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Uncut:
    """Channels that stay, and why.

    Attributes:
        name: name of the first node that writes them.
        channels: how many there are.
        reason: as a sentence's second half.
    """

    name: str
    channels: int
    reason: str


def sites(model: onnx.ModelProto) -> list[Site]:
    """Return the sites of a graph, in its order.

    The middles of squeeze-and-excite branches are none: they follow the channels that they gate.

    Raises:
        ModelError: the model is quantized.
    """
    return Channels(model).sites()


class Channels:
    """A graph with its groups of channels by name.

    Attributes:
        ties: the graph and its groups.
        written: the layers that write each group, by the group's number.
        read: the layers that read each group.
        names: the groups' numbers by name, those that are locked included.
        gated: the group that a gate's middle belongs to, by the middle's number.

    Raises:
        ModelError: the model is quantized.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.ties = Ties(separated(model))
        groups = self.ties.groups
        self.written: dict[int, list[Layer]] = {number: [] for number, _ in groups.items()}
        self.read: dict[int, list[Layer]] = {number: [] for number, _ in groups.items()}
        for layer in self.ties.layers:
            self.written[groups.number(layer.writes)].append(layer)
            self.read[groups.number(layer.reads)].append(layer)
        self.names: dict[str, int] = {}
        for number, layers in self.written.items():
            if layers:
                node = self.ties.model.graph.node[layers[0].node]
                name = label(node)
                self.names[node.output[0] if name in self.names else name] = number
        gates = ((number, self._gates(number)) for number in self.names.values())
        self.gated = {number: group for number, group in gates if group is not None}

    def group(self, name: str) -> Group:
        """Return a group by its name."""
        return self.ties.groups[self.names[name]]

    def sites(self) -> list[Site]:
        return [
            Site(
                name, self._kind(number), self.ties.groups[number].channels, self._middles(number)
            )
            for name, number in self.names.items()
            if number not in self.gated and not self._reason(number)
        ]

    def uncut(self) -> list[Uncut]:
        """Return the groups that stay as they are, but for the outputs' own."""
        return [
            Uncut(name, self.ties.groups[number].channels, self._reason(number))
            for name, number in self.names.items()
            if self._reason(number)
        ]

    def _middles(self, number: int) -> tuple[str, ...]:
        return tuple(
            name for name, middle in self.names.items() if self.gated.get(middle) == number
        )

    def _reason(self, number: int) -> str:
        """Say why a group stays, or one that would have to follow it does; empty if neither."""
        middles = [middle for middle, group in self.gated.items() if group == number]
        locked = (self.ties.groups[each].locked for each in (number, *middles))
        return next((reason for reason in locked if reason), "")

    def _gates(self, number: int) -> int | None:
        """Return the group that another one gates: pooled before it, multiplied behind it."""
        groups = self.ties.groups
        written, read = self.written[number], self.read[number]
        if not read or not all(layer.pooled for layer in written):
            return None
        around = {groups.number(layer.reads) for layer in written}
        around |= {groups.number(layer.writes) for layer in read}
        return around.pop() if len(around) == 1 and number not in around else None

    def _kind(self, number: int) -> Kind:
        group, groups = self.ties.groups[number], self.ties.groups
        inputs = {value.name for value in self.ties.model.graph.input}
        nodes = self.ties.model.graph.node
        written = [layer for layer in self.written[number] if groups.number(layer.reads) != number]
        if any(nodes[layer.node].input[0] in inputs for layer in written):
            return "stem"
        if group.joined:
            return "bottleneck"
        if group.depthwise:
            return "expansion"
        if all(layer.pooled for layer in written):
            return "hidden"
        if any(layer.pooled for layer in self.read[number]):
            return "tail"
        return "layer" if group.nonlinear else "bottleneck"
