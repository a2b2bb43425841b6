"""Groups of channels of a graph that belong together, and what has entries for them."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class View:
    """Where the channels of a group are in a tensor.

    Attributes:
        group: number of the group.
        axis: axis of the tensor.
        inner: entries that each channel has there, next to each other: more than one behind a
            Flatten of maps.
        pooled: whether the tensor holds means or maxima over whole maps.
    """

    group: int
    axis: int
    inner: int = 1
    pooled: bool = False


@dataclass(frozen=True)
class Part:
    """An axis of a constant that has an entry, or `inner` of them, for each channel."""

    tensor: str
    axis: int
    inner: int = 1


@dataclass(frozen=True)
class Extent:
    """An entry of a constant shape that says the number of channels, times `inner`."""

    tensor: str
    entry: int
    inner: int = 1


@dataclass(frozen=True)
class Layer:
    """A layer with a weight for each pair of an input and an output channel.

    Attributes:
        node: position of the node in the graph.
        reads: number of the group of its input.
        writes: number of the group of its output.
        weight: name of the weight.
        read: axis of the weight that has the input channels, and `inner`.
        written: axis of the weight that has the output channels.
        pooled: whether it reads means or maxima over whole maps.
    """

    node: int
    reads: int
    writes: int
    weight: str
    read: Part
    written: int
    pooled: bool


@dataclass
class Group:
    """Channels that belong together.

    Attributes:
        channels: how many there are.
        parts: what has entries for them, weights of layers included.
        extents: what says how many there are.
        depthwise: positions of depthwise convolutions over them.
        joined: whether maps are added here, as at the end of a residual block.
        nonlinear: whether a function is computed on each of them.
        locked: why they cannot be cut; empty if they can.
    """

    channels: int
    parts: list[Part] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    depthwise: list[int] = field(default_factory=list)
    joined: bool = False
    nonlinear: bool = False
    locked: str = ""

    def take(self, other: "Group") -> None:
        """Take over all that is known of a group whose channels are these."""
        self.parts += other.parts
        self.extents += other.extents
        self.depthwise += other.depthwise
        self.joined |= other.joined
        self.nonlinear |= other.nonlinear
        self.locked = self.locked or other.locked


class Groups:
    """Groups by number; groups that turn out to be one become one."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._groups: dict[int, Group] = {}

    def new(self, channels: int, locked: str = "") -> int:
        """Begin a group and return its number."""
        number = len(self._parents)
        self._parents.append(number)
        self._groups[number] = Group(channels, locked=locked)
        return number

    def number(self, group: int) -> int:
        """Return the number by which a group is known by now."""
        while self._parents[group] != group:
            self._parents[group] = self._parents[self._parents[group]]
            group = self._parents[group]
        return group

    def __getitem__(self, group: int) -> Group:
        return self._groups[self.number(group)]

    def items(self) -> Iterable[tuple[int, Group]]:
        """Return the groups and their numbers, in the order in which they began."""
        return sorted(self._groups.items())

    def tie(self, one: int, other: int) -> bool:
        """Make two groups one; say whether they were two. They have equally many channels."""
        first, second = sorted((self.number(one), self.number(other)))
        if first == second:
            return False
        self._parents[second] = first
        self._groups[first].take(self._groups.pop(second))
        return True
