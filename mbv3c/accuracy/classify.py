"""Run images through onnxruntime and a bundle side by side, and note their best classes.

Threads decode ahead, onnxruntime computes in this process and the bundle in its own, all at the
same time. In memory are the images of a group and a few more.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mbv3c.accuracy.image_sets import Image
from mbv3c.accuracy.tally import BUNDLE, GIVEN, Record
from mbv3c.errors import ImageError
from mbv3c.execution.runners import Tensor
from mbv3c.execution.streams import Stream
from mbv3c.parity.reference import run

Read = Callable[[Path], Tensor]

BEST = 5

_MOST_THREADS = 4


@dataclass(frozen=True)
class Scores:
    """Where a model's class scores are.

    Attributes:
        output: the index of the output.
        axis: its axis of classes; all other axes together are the batch.
    """

    output: int
    axis: int

    def of(self, outputs: list[Tensor]) -> Tensor:
        """Return one row of scores per image of the batch."""
        found = np.moveaxis(outputs[self.output], self.axis, -1)
        return found.reshape(-1, found.shape[-1])


def classify(
    images: Iterator[Image],
    read: Read,
    sessions: Mapping[str, ort.InferenceSession],
    stream: Stream,
    shape: tuple[int, ...],
    scores: Scores,
) -> Iterator[list[Record]]:
    """Run images through everything, and yield what became of them, group by group.

    Args:
        images: what to run, from the beginning of a group on.
        read: makes one input, without the batch, of a file.
        sessions: onnxruntime on each reference.
        stream: the bundle.
        shape: of the models' input.
        scores: where the class scores are.

    Raises:
        ToolError: the bundle fails.
    """
    size = group_size(stream, shape)
    decoded = _decoded(images, read, size)
    while group := list(islice(decoded, size)):
        whole = [x for _, x in group if isinstance(x, np.ndarray)]
        yield _records(group, _best(_batches(whole, shape[0]), sessions, stream, scores))


def group_size(stream: Stream, shape: tuple[int, ...]) -> int:
    """Return how many images go through at once."""
    return stream.at_once * shape[0]


def _decoded(
    images: Iterator[Image], read: Read, size: int
) -> Iterator[tuple[Image, Tensor | ImageError]]:
    """Read images in threads, a group ahead, and yield them in their order."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[Image, Future[Tensor | ImageError]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for image in images:
            waiting.append((image, pool.submit(_read, read, image.path)))
            if len(waiting) >= size + 2 * threads:
                first, found = waiting.popleft()
                yield first, found.result()
        while waiting:
            first, found = waiting.popleft()
            yield first, found.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(read: Read, path: Path) -> Tensor | ImageError:
    try:
        return read(path)
    except ImageError as error:
        return error


def _batches(inputs: list[Tensor], size: int) -> list[Tensor]:
    """Make batches; the last is filled up with its last input."""
    found = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        found.append(np.stack(batch + batch[-1:] * (size - len(batch))))
    return found


@dataclass(frozen=True)
class _Found:
    """What all sides make of an image: their best classes, and `Record`'s lead."""

    best: dict[str, list[int]]
    lead: float | None


def _best(
    batches: list[Tensor],
    sessions: Mapping[str, ort.InferenceSession],
    stream: Stream,
    scores: Scores,
) -> Iterator[_Found]:
    """Run batches, and yield what was found for every image of them, fillings at the end."""
    if not batches:
        return
    stream.send(batches)  # which computes while onnxruntime does
    rows = {
        side: np.concatenate([scores.of(run(session, x)) for x in batches])
        for side, session in sessions.items()
    }
    rows[BUNDLE] = np.concatenate([scores.of(outputs) for outputs in stream.receive()])
    for at in range(len(rows[BUNDLE])):
        best = {side: _top(found[at]) for side, found in rows.items()}
        yield _Found(best, _lead(rows[GIVEN][at], best))


def _top(row: Tensor) -> list[int]:
    """Return the best classes, best first; none where a score is not finite."""
    if not np.isfinite(row).all():
        return []
    return [int(one) for one in np.argsort(-row, kind="stable")[:BEST]]


def _lead(row: Tensor, best: Mapping[str, list[int]]) -> float | None:
    """Return how far the reference puts its class above the bundle's, over its range of scores."""
    if not best[GIVEN] or not best[BUNDLE] or best[GIVEN][0] == best[BUNDLE][0]:
        return None
    lead = float(row[best[GIVEN][0]] - row[best[BUNDLE][0]]) / float(np.ptp(row))
    return float(f"{lead:.3g}")


def _records(
    group: list[tuple[Image, Tensor | ImageError]], found: Iterator[_Found]
) -> list[Record]:
    """Say of every image of a group what became of it."""
    records = []
    for image, x in group:
        # File systems take names that are no text.
        name = image.file.encode(errors="backslashreplace").decode()
        record: Record = {"file": name, "label": image.label}
        if isinstance(x, ImageError):
            records.append(record | {"broken": x.reason})
            continue
        one = next(found)
        lead = {} if one.lead is None else {"lead": one.lead}
        records.append(record | one.best | lead)
    return records
