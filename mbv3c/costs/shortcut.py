"""Answer many questions about networks that differ in channel counts by one rewriting.

    the first network → rewritten → with a count of its own for every group of channels
                                    → quantized, lowered: once
    each network                    → its counts in the place of these, wherever they are

What comes out of the last step is checked once against what the network itself gives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from mbv3c.costs.questions import Question
from mbv3c.graphs.channel_groups import (
    Axis,
    ChannelGroups,
    UntiedError,
    channel_groups,
    distinct_counts,
    extents,
    with_counts,
)

_CHANNELS = 1


@dataclass(frozen=True)
class Shortcut:
    """What networks of one structure have in common.

    Attributes:
        graph: the rewritten graph, with a count of its own for every group of channels.
        counts: that count by the group's number.
        places: where the networks as given have the count of a group: names of tensors, and axes.
    """

    graph: onnx.ModelProto
    counts: Mapping[int, int]
    places: Mapping[int, tuple[Axis, ...]]

    def sizes(self, question: Question) -> dict[int, int]:
        """Return what stands in the place of each count of its own.

        Raises:
            UntiedError: the network has several counts for one group.
        """
        found = {}
        for number, places in self.places.items():
            counts = {question.shapes[name][axis] for name, axis in places}
            if len(counts) != 1:
                names = ", ".join(name for name, _ in places)
                raise UntiedError(f"{names} have several counts of channels")
            found[self.counts[number]] = counts.pop()
        return found


def shortcut(
    question: Question, rewritten: onnx.ModelProto, taken: Iterable[int] = ()
) -> Shortcut:
    """Return the shortcut for a structure, from one network as given and rewritten.

    Extents that are `taken` mean something else to the target, and are no group's count.

    Raises:
        UntiedError: the graph has operators whose channels are not understood here, or tensors
            of which the network as given knows nothing.
    """
    groups = channel_groups(rewritten)
    counts = distinct_counts(groups, {*extents(rewritten), *taken})
    return Shortcut(with_counts(rewritten, groups, counts), counts, _places(question, groups))


def _places(question: Question, groups: ChannelGroups) -> dict[int, tuple[Axis, ...]]:
    found: dict[int, list[Axis]] = {number: [] for number in groups.counts}
    computed = {(name, _CHANNELS): number for name, number in groups.tensors.items()}
    for (name, axis), number in [*computed.items(), *groups.axes.items()]:
        shape = question.shapes.get(name, ())
        if len(shape) > axis and shape[axis] == groups.counts[number]:
            found[number].append((name, axis))
    unknown = [number for number, places in found.items() if not places]
    if unknown:
        tied = [name for name, number in groups.tensors.items() if number == unknown[0]]
        raise UntiedError(f"{', '.join(tied)} is not in the network as given")
    return {number: tuple(places) for number, places in found.items()}
