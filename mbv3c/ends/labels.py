"""The names of classes: read from a file, and said of what an inference gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.door.files import Refused, read_plain
from mbv3c.ends.ends import Ends
from mbv3c.errors import UsageError

_MOST = 1 << 24  # bytes of a file
_SHOWN = 5  # classes, where nobody asked for a number of them


@dataclass(frozen=True)
class BestClass:
    """One of the best classes of an image.

    Attributes:
        image: the place of the image in the batch.
        index: the number of the class, from 0 on.
        label: its name; empty without.
        score: what the network gives for it.
    """

    image: int
    index: int
    label: str
    score: float


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the names of classes, one in each line, in their order; they may repeat.

    Raises:
        UsageError: there is no such file, it is no text, or a line is empty.
    """
    try:
        text = read_plain(path, _MOST).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"--labels: no such file: {path}") from error
    except (OSError, Refused, UnicodeDecodeError) as error:
        raise UsageError(f"--labels: {path} is no text file: {error}") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip() or not line.isprintable():
            raise UsageError(
                f"--labels: line {number} of {path} is {line[:40]!r}; write the name of one class "
                "in each line, in the order of the classes"
            )
    return tuple(lines)


def best_classes(ends: Ends, outputs: Sequence[NDArray[Any]]) -> list[BestClass]:
    """Return the best classes of every image, best first; none if nobody asked for classes.

    Args:
        ends: what the bundle was asked to give.
        outputs: what it gave.
    """
    if not ends.outputs.top and not ends.labels:
        return []
    scores = outputs[0]
    if ends.outputs.top:
        classes = outputs[1]
    else:
        classes = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :_SHOWN]
        scores = np.take_along_axis(scores, classes, axis=1)
    names = dict(enumerate(ends.labels))
    return [
        BestClass(image, int(index), names.get(int(index), ""), float(score))
        for image, row in enumerate(classes)
        for index, score in zip(row, scores[image], strict=True)
    ]
