"""Run images through onnxruntime and a bundle side by side, and note their best classes.

Threads decode ahead while onnxruntime computes in this process and the bundle in another one.
Memory holds the images of one group and a few more.
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
from mbv3c.accuracy.scores import MISSING, Scores
from mbv3c.accuracy.tally import BUNDLE, GIVEN, Record
from mbv3c.errors import ImageError
from mbv3c.execution.runners import Stream
from mbv3c.feeds import Array
from mbv3c.parity.reference import run

Read = Callable[[Path], Array]

BEST = 5

_MOST_THREADS = 4


def classify(
    images: Iterator[Image],
    read: Read,
    sessions: Mapping[str, ort.InferenceSession],
    stream: Stream,
    shape: tuple[int, ...],
    scores: Scores,
) -> Iterator[list[Record]]:
    """Run images through the references and the bundle, and yield records group by group.

    Args:
        images: images to run, from the beginning of a group on.
        read: function from a file to one input, without the batch.
        sessions: onnxruntime's sessions, by reference.
        stream: stream to the bundle.
        shape: shape of the models' input.
        scores: where the class scores are.

    Raises:
        ToolError: the bundle fails.
    """
    size = group_size(stream, shape)
    decoded = _decoded(images, read, size)
    while group := list(islice(decoded, size)):
        inputs = [x for _, x in group if isinstance(x, np.ndarray)]
        yield _records(group, _classified(_batches(inputs, shape[0]), sessions, stream, scores))


def group_size(stream: Stream, shape: tuple[int, ...]) -> int:
    """Return how many images the stream takes at once."""
    return stream.at_once * shape[0]


def _decoded(
    images: Iterator[Image], read: Read, size: int
) -> Iterator[tuple[Image, Array | ImageError]]:
    """Read images in threads, a group ahead, and yield them in their order."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[Image, Future[Array | ImageError]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for image in images:
            waiting.append((image, pool.submit(_read, read, image.path)))
            if len(waiting) >= size + 2 * threads:
                first, decoded = waiting.popleft()
                yield first, decoded.result()
        while waiting:
            first, decoded = waiting.popleft()
            yield first, decoded.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(read: Read, path: Path) -> Array | ImageError:
    try:
        return read(path)
    except ImageError as error:
        return error


def _batches(inputs: list[Array], size: int) -> list[Array]:
    """Make batches; the last is filled up with its last input."""
    parts = (inputs[start : start + size] for start in range(0, len(inputs), size))
    return [np.stack(part + part[-1:] * (size - len(part))) for part in parts]


@dataclass(frozen=True)
class _Classified:
    """The best classes of an image on every side, and the reference's lead, as `_lead` says."""

    best: dict[str, list[int]]
    lead: float | None


def _classified(
    batches: list[Array],
    sessions: Mapping[str, ort.InferenceSession],
    stream: Stream,
    scores: Scores,
) -> Iterator[_Classified]:
    """Run batches, and yield the result for each of their images, the fillings at the end."""
    if not batches:
        return
    stream.send(batches)  # which computes while onnxruntime does
    rows = {
        side: np.concatenate([scores.of(run(session, x)) for x in batches])
        for side, session in sessions.items()
    }
    rows[BUNDLE] = np.concatenate([scores.of(outputs) for outputs in stream.receive()])
    for image_rows in zip(*rows.values(), strict=True):
        by_side = dict(zip(rows, image_rows, strict=True))
        best = {side: best_of(row) for side, row in by_side.items()}
        yield _Classified(best, _lead(by_side[GIVEN], best))


def best_of(row: Array) -> list[int]:
    """Return the best classes, best first; none if a score is not finite."""
    if not np.isfinite(row).all():
        return []
    best = (int(index) for index in np.argsort(-row, kind="stable")[:BEST])
    known = _known(row)
    return [index for index in best if known[index]]


def _known(row: Array) -> Array:
    """Say of which classes there is a score."""
    known: Array = row.astype(np.float64) != MISSING
    return known


def _lead(row: Array, best: Mapping[str, list[int]]) -> float | None:
    """Return how far the reference puts its class above the bundle's, over its range of scores."""
    if not best[GIVEN] or not best[BUNDLE] or best[GIVEN][0] == best[BUNDLE][0]:
        return None
    present = _known(row)
    known = row[present]
    if not present[best[BUNDLE][0]] or not np.ptp(known):
        return None
    lead = float(row[best[GIVEN][0]] - row[best[BUNDLE][0]]) / float(np.ptp(known))
    return float(f"{lead:.3g}")


def _records(
    group: list[tuple[Image, Array | ImageError]], results: Iterator[_Classified]
) -> list[Record]:
    """Return the record of every image of a group, broken ones included."""
    records = []
    for image, x in group:
        # File systems take names that are no text.
        name = image.file.encode(errors="backslashreplace").decode()
        record: Record = {"file": name, "label": image.label}
        if isinstance(x, ImageError):
            records.append(record | {"broken": x.reason})
            continue
        result = next(results)
        lead = {} if result.lead is None else {"lead": result.lead}
        records.append(record | result.best | lead)
    return records
