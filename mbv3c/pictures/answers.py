"""What the outputs of a network say of each picture, in words and places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.ends.labels import BestClass
from mbv3c.pictures.meaning import Meaning

LEAST_SCORE = 0.3  # of a box that is shown, where nobody says
_SHOWN = {"boxes": 20}  # how many answers, where nobody says
_OTHERS = 5

Part = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """An object that was found.

    Attributes:
        index: the number of its class.
        label: the name of its class; empty without.
        score: how sure the network is, from 0 to 1.
        left, top, right, bottom: its edges, in pixels of the picture.
    """

    index: int
    label: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Area:
    """What a class takes of the part that the network sees.

    Attributes:
        index: the number of the class.
        label: its name; empty without.
        share: share of the pixels.
    """

    index: int
    label: str
    share: float


@dataclass(frozen=True)
class Answer:
    """What a network says of one picture; only one of these is there.

    Attributes:
        classes: the best classes, best first.
        boxes: what was found, best first.
        areas: what the classes of a map take, the largest first.
        map: the class of every place of the map, H, W.
    """

    classes: tuple[BestClass, ...] = ()
    boxes: tuple[Box, ...] = ()
    areas: tuple[Area, ...] = ()
    map: NDArray[np.int64] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        found: dict[str, tuple[Any, ...]] = {
            "classes": self.classes,
            "boxes": self.boxes,
            "areas": self.areas,
        }
        return {name: [asdict(one) for one in rows] for name, rows in found.items() if rows}

    def words(self, meaning: Meaning) -> list[str]:
        """Say every single answer, best first."""
        return [
            *(f"{one.score:.4g} {meaning.called(one.index)}" for one in self.classes),
            *(f"{one.score:.2f} {meaning.called(one.index)}" for one in self.boxes),
            *(f"{one.share:.1%} {meaning.called(one.index)}" for one in self.areas),
        ]


NO_ANSWER = Answer()


@dataclass(frozen=True)
class Asked:
    """How much of the outputs is shown.

    Attributes:
        top: number of answers for a picture; None for as many as are usual.
        least_score: score that a box must have.
    """

    top: int | None = None
    least_score: float = LEAST_SCORE


AS_USUAL = Asked()


@dataclass(frozen=True)
class Placing:
    """Where the input of a network lies in a picture.

    Attributes:
        part: left, top, right and bottom of what the network sees, in pixels of the picture.
        height: height of the input.
        width: width of the input.
    """

    part: Part
    height: int
    width: int

    def placed(self, box: Sequence[float]) -> Part:
        """Return where a box, whose edges are in pixels of the input, is in the picture."""
        left, top, right, bottom = self.part
        across, down = (right - left) / self.width, (bottom - top) / self.height
        return (
            left + box[0] * across,
            top + box[1] * down,
            left + box[2] * across,
            top + box[3] * down,
        )


def answers(
    meaning: Meaning,
    arrays: Mapping[str, NDArray[Any]],
    asked: Asked,
    placings: Sequence[Placing],
) -> list[Answer]:
    """Return what outputs say of the first pictures of a batch, of which each has its placing.

    Args:
        meaning: what the outputs mean.
        arrays: the outputs in their order, or of a detector its detections.
        asked: how much is shown.
        placings: where the input lies in each picture.
    """
    top = asked.top or _SHOWN.get(meaning.kind, _OTHERS)
    of = {
        "best classes": _given,
        "scores": _classes,
        "map of scores": _areas,
        "map of classes": _areas,
    }.get(meaning.kind)
    if meaning.kind == "boxes":
        return [
            Answer(boxes=tuple(_boxes(meaning, arrays, image, placing, asked))[:top])
            for image, placing in enumerate(placings)
        ]
    if of is None:
        return [Answer() for _ in placings]
    return [of(meaning, list(arrays.values()), image, top) for image in range(len(placings))]


def images_in(meaning: Meaning, arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return how many images outputs are of; of a detector as many as have detections."""
    if meaning.kind == "boxes":
        return int(arrays["images"].max(initial=0)) + 1
    array = list(arrays.values())[meaning.output]
    if meaning.kind == "scores":
        return int(array.size // array.shape[meaning.axis])
    return int(array.shape[0])


def _given(meaning: Meaning, arrays: list[NDArray[Any]], image: int, top: int) -> Answer:
    return Answer(tuple(_named(meaning, image, arrays[1][image], arrays[0][image]))[:top])


def _classes(meaning: Meaning, arrays: list[NDArray[Any]], image: int, top: int) -> Answer:
    scores = np.moveaxis(arrays[meaning.output], meaning.axis, -1)
    row = scores.reshape(-1, scores.shape[-1])[image]
    best = np.argsort(-row.astype(np.float64), kind="stable")[:top]
    return Answer(tuple(_named(meaning, image, best, row[best])))


def _named(
    meaning: Meaning, image: int, indices: NDArray[Any], scores: NDArray[Any]
) -> Iterator[BestClass]:
    for index, score in zip(indices, scores, strict=True):
        yield BestClass(image, int(index), meaning.name_of(int(index)), float(score))


def _boxes(
    meaning: Meaning,
    found: Mapping[str, NDArray[Any]],
    image: int,
    placing: Placing,
    asked: Asked,
) -> Iterator[Box]:
    for at in np.flatnonzero((found["images"] == image) & (found["scores"] > asked.least_score)):
        index = int(found["labels"][at])
        edges = (
            round(edge, 2) for edge in placing.placed([float(one) for one in found["boxes"][at]])
        )
        yield Box(index, meaning.name_of(index), float(found["scores"][at]), *edges)


def _areas(meaning: Meaning, arrays: list[NDArray[Any]], image: int, top: int) -> Answer:
    array = arrays[meaning.output]
    if meaning.kind == "map of scores":
        array = np.argmax(array, axis=meaning.axis)
    map_ = array[image].reshape(array.shape[-2:]).astype(np.int64)
    indices, counts = np.unique(map_, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:top]
    areas = (
        Area(int(indices[at]), meaning.name_of(int(indices[at])), float(counts[at] / map_.size))
        for at in order
    )
    return Answer(areas=tuple(areas), map=map_)
