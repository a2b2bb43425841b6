"""Answer many questions about networks that differ in channel counts by one rewriting.

    the first network → rewritten → with a count of its own for every group of channels
                                    → quantized, lowered: once
    each network                    → its counts in the place of these, wherever they are

What comes out of the last step is checked once against what the network itself gives.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import onnx

from mbv3c.costs.drawing import drawn
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
from mbv3c.progress import Progress

_CHANNELS = 1
_MOST_TEMPLATES = 8  # structures of networks that are kept in memory

Sizes = Mapping[int, int]
Made = TypeVar("Made")
Lowered = TypeVar("Lowered")


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


@dataclass
class _Template(Generic[Made]):
    """What the networks of a structure have in common.

    Attributes:
        shortcut: the graph, with a count of its own for every group of channels.
        made: what was made of that graph.
        checked: whether a network was seen to be what its own lowering gives.
    """

    shortcut: Shortcut
    made: Made
    checked: bool = False


@dataclass
class ByStructure(Generic[Made, Lowered]):
    """Lowers networks, those of one structure by a shortcut.

    Attributes:
        rewrite: rewrites a network as given.
        lower: lowers a rewritten network.
        make: makes of the shortcut's graph what all networks of the structure are fitted from.
        fit: puts a network's own counts in the place of the shortcut's.
        alike: whether a network that was lowered by itself is what `fit` gives.
        done: what is done with networks, in a word for people.
        taken: as of `shortcut`.
    """

    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto]
    lower: Callable[[onnx.ModelProto], Lowered]
    make: Callable[[onnx.ModelProto], Made]
    fit: Callable[[Made, Sizes], Lowered]
    alike: Callable[[Lowered, Made, Sizes], bool]
    done: str
    taken: tuple[int, ...] = ()
    _templates: dict[str, _Template[Made] | None] = field(default_factory=dict, init=False)

    def lowered(self, question: Question, progress: Progress) -> Lowered:
        """Return a network as it is lowered, by the shortcut of its structure if there is one.

        Raises:
            ModelError: it cannot be lowered.
        """
        structure, own = question.structure, None
        if structure not in self._templates:
            own = self.rewrite(drawn(question.model))
            self._remember(structure, self._template(question, own, progress))
        template = self._templates[structure]
        if template is not None and template.checked:
            return self.fit(template.made, template.shortcut.sizes(question))
        lowered = self.lower(self.rewrite(drawn(question.model)) if own is None else own)
        if template is None:
            return lowered
        sizes = template.shortcut.sizes(question)
        if self.alike(lowered, template.made, sizes):
            template.checked = True
            return self.fit(template.made, sizes)
        progress(f"these networks are {self.done} one by one: channel counts change more")
        self._templates[structure] = None
        return lowered

    def _template(
        self, question: Question, graph: onnx.ModelProto, progress: Progress
    ) -> _Template[Made] | None:
        try:
            made = shortcut(question, graph, self.taken)
        except UntiedError as error:
            progress(f"each of these networks is {self.done} by itself: {error}")
            return None
        return _Template(made, self.make(made.graph))

    def _remember(self, structure: str, template: _Template[Made] | None) -> None:
        while len(self._templates) >= _MOST_TEMPLATES:
            del self._templates[next(iter(self._templates))]
        self._templates[structure] = template
