"""The line for images: read → onnxruntime and bundle → journal → report."""

import csv
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import onnx

from mbv3c.accuracy.classify import Read, classify, group_size
from mbv3c.accuracy.image_sets import Classes, ImageSet, open_images
from mbv3c.accuracy.journal import Journal, open_journal
from mbv3c.accuracy.report import named
from mbv3c.accuracy.scores import Scores, class_scores
from mbv3c.accuracy.tally import BUNDLE, GIVEN, QUANTIZED, Tally, differs
from mbv3c.atomic import check_place, new_file
from mbv3c.bundle import Bundle, read_bundled
from mbv3c.errors import Mbv3cError
from mbv3c.execution.cache import cache_root
from mbv3c.execution.runners import Runnable, Stream, open_stream
from mbv3c.graphs.load import dtype_of, model_input
from mbv3c.graphs.outputs import class_names
from mbv3c.manifest import manifest_digest
from mbv3c.parity.inputs import in_type
from mbv3c.parity.reference import session
from mbv3c.progress import Progress
from mbv3c.quantization.images import (
    IMAGES,
    TO_ONE,
    Overrides,
    Preprocessing,
    origins,
    preprocessing,
    read_image,
    without_warnings,
)
from mbv3c.quoting import for_cell
from mbv3c.version import __version__

# Keys are in docs/json.md; `event` says which kind it is.
Event = dict[str, Any]
Report = Callable[[Event], None]
Open = Callable[[Progress], AbstractContextManager[Runnable]]

_PROGRESS_SECONDS = 0.5
_SLOW_SECONDS = 600.0


@dataclass(frozen=True)
class AccuracyRequest:
    """What the user asked for.

    Attributes:
        folder: folder of the images.
        labels: CSV file of the classes, or `NO_LABELS`; None if folders are classes.
        overrides: the user's own preprocessing.
        limit: number of images to take; None for all.
        seed: seed by which images are chosen.
        journal: file to note results in, which is kept; None for one in the cache, which is
            removed at the end.
        listing: file for the list of images that differ or are broken; None for the cache.
        force: whether to write over the file for the list.
    """

    folder: Path
    labels: Path | None = None
    overrides: Overrides = field(default_factory=Overrides)
    limit: int | None = None
    seed: int = 0
    journal: Path | None = None
    listing: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class _Measurement:
    """Everything that is fixed before the first image runs."""

    bundle: Bundle
    models: dict[str, onnx.ModelProto]
    scores: Scores
    prepared: Preprocessing
    origins: dict[str, str]
    classes: Classes
    images: ImageSet

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes, by the model or else by the folders."""
        return self.classes.names or self.images.names

    @property
    def read(self) -> Read:
        dtype = dtype_of(model_input(self.models[GIVEN]))
        return lambda path: in_type(read_image(path, self.prepared), dtype)


def measure_accuracy(
    bundle: Bundle, open_bundle: Open, request: AccuracyRequest, report: Report
) -> dict[str, Any]:
    """Run images through a bundle and onnxruntime, and return the documented keys.

    Results are in a journal at all times; a repeated call goes on where one was interrupted.

    Args:
        bundle: the bundle.
        open_bundle: opens what runs it, and is handed who is told what is being done.
        request: what the user asked for.
        report: function that is told what happens.

    Raises:
        UsageError: the bundle's model is no classifier of images, the images' classes are not its
            classes, or the request is otherwise impossible.
        Mbv3cError: the bundle is damaged or fails, or no image can be read.
    """
    if request.listing is not None:
        check_place(request.listing, force=request.force)
    wanted = _prepare(bundle, request)

    def step(text: str) -> None:
        report({"event": "step", "step": text})

    with (
        without_warnings(),
        open_bundle(step) as ran,
        open_stream(ran.runner, ran.folder, len(bundle.output_names)) as stream,
    ):
        key = _key(wanted, request, ran, stream)
        named = request.journal or _in_cache(wanted.bundle, key, ".jsonl")
        with open_journal(named, key) as journal:
            tally = _run(wanted, stream, journal, ran, report)
            if not tally.read:
                first = tally.first_broken[0]
                raise Mbv3cError(
                    f"none of the {tally.broken} images in {request.folder} can be read; the "
                    f"first is {first['file']}: {first['broken']}"
                )
            listing = request.listing or _in_cache(wanted.bundle, key, ".csv")
            force = request.force or request.listing is None  # in the cache it is ours
            _list(listing, journal, wanted, force=force)
            if request.journal is None:
                journal.path.unlink()
    return _document(wanted, request, ran, tally, listing)


def _prepare(bundle: Bundle, request: AccuracyRequest) -> _Measurement:
    model = read_bundled(bundle.model)
    models = {GIVEN: model}
    if bundle.compiled_model != bundle.model:
        models[QUANTIZED] = read_bundled(bundle.compiled_model)
    scores, count = class_scores(bundle.manifest, bundle.path)
    classes = Classes(count, class_names(bundle.manifest.model.metadata, count))
    overrides = request.overrides
    return _Measurement(
        bundle,
        models,
        scores,
        preprocessing(model, bundle.input_shape, overrides),
        origins(model, overrides),
        classes,
        open_images(
            request.folder,
            classes,
            IMAGES,
            labels=request.labels,
            limit=request.limit,
            seed=request.seed,
        ),
    )


def _key(
    wanted: _Measurement, request: AccuracyRequest, ran: Runnable, stream: Stream
) -> dict[str, Any]:
    """Return everything that the result depends on."""
    images = wanted.images
    return {
        "bundle": manifest_digest(wanted.bundle.path),
        "preprocessing": _in_journal(wanted.prepared),
        "folder": str(request.folder.absolute()),
        "images": images.fingerprint,
        "chosen": images.chosen,
        "seed": images.seed,
        "group": group_size(stream, wanted.bundle.input_shape),
        "ran_on": ran.ran_on,
        "mbv3c": __version__,
        "onnxruntime": metadata.version("onnxruntime"),
    }


# What journals do not say, because there was nothing else once.
_UNSAID = {"scale": TO_ONE, "channels": "RGB"}


def _in_journal(prepared: Preprocessing) -> dict[str, Any]:
    steps = prepared.to_json()
    return {key: value for key, value in steps.items() if _UNSAID.get(key) != value}


def _in_cache(bundle: Bundle, key: dict[str, Any], suffix: str) -> Path:
    digest = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()[:16]
    return cache_root() / "accuracy" / f"{bundle.path.resolve().name}-{digest}{suffix}"


def _run(
    wanted: _Measurement, stream: Stream, journal: Journal, ran: Runnable, report: Report
) -> Tally:
    """Run the images that are not in the journal yet, and count all images."""
    tally = Tally(tuple(wanted.models))
    tally.add_all(journal.read())
    images, shape = wanted.images, wanted.bundle.input_shape
    report(
        {
            "event": "start",
            "images": images.chosen,
            "of": images.total,
            "done": tally.done,
            "labels": images.labels,
            "preprocessing": _described(wanted),
            "ran_on": ran.ran_on,
            "journal": str(journal.path),
        }
    )
    sessions = {side: session(model) for side, model in wanted.models.items()}
    left = islice(images.read(), journal.groups * group_size(stream, shape), None)
    pace = _Pace(images.chosen, tally.done, report)
    try:
        for group in classify(left, wanted.read, sessions, stream, shape, wanted.scores):
            journal.add(group)
            tally.add_all(group)
            pace.tell(tally)
    except KeyboardInterrupt:
        report({"event": "interrupted", "done": tally.done, "journal": str(journal.path)})
        raise
    report({"event": "done", **_state(tally)})
    return tally


class _Pace:
    """Reports the progress and the time left, now and then."""

    def __init__(self, images: int, done: int, report: Report) -> None:
        self._images, self._before, self._report = images, done, report
        self._began = self._told = 0.0
        self._warned = False

    def tell(self, tally: Tally) -> None:
        now = time.monotonic()
        if not self._began:  # the first group waits for processes to start
            self._began, self._before = now, tally.done
            return
        if now - self._told < _PROGRESS_SECONDS:
            return
        self._told = now
        each = (now - self._began) / (tally.done - self._before)
        left = each * (self._images - tally.done)
        if left > _SLOW_SECONDS and not self._warned:
            self._warned = True
            self._report({"event": "slow", "seconds_each": each, "left_s": left})
        state = _state(tally)
        self._report({"event": "progress", **state, "seconds_each": each, "left_s": left})


def _state(tally: Tally) -> dict[str, Any]:
    return {
        "done": tally.done,
        "broken": tally.broken,
        "differing": tally.differing,
        "agreement": tally.agreement,
    }


def _list(path: Path, journal: Journal, wanted: _Measurement, *, force: bool) -> None:
    """Write the images that differ or are broken, one per line, with the classes' names."""
    references, names = tuple(wanted.models), wanted.names
    sides = (*references, BUNDLE)
    with new_file(path, force=force) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", *sides, "lead", "broken"])
        rows.writerows(map(_quoted, _rows(journal, references, names)))


def _quoted(row: list[Any]) -> list[Any]:
    return [for_cell(cell) if isinstance(cell, str) else cell for cell in row]


def _rows(
    journal: Journal, references: tuple[str, ...], names: Sequence[str] | None
) -> Iterator[list[Any]]:
    sides = (*references, BUNDLE)
    for image in journal.read():
        label = image["label"]
        start = [image["file"], label if label is None else named(label, names)]
        if "broken" in image:
            yield [*start, *("" for _ in sides), "", image["broken"]]
        elif differs(image, references):
            best = (image[side][0] if image[side] else None for side in sides)
            found = ["not finite" if one is None else named(one, names) for one in best]
            yield [*start, *found, image.get("lead"), ""]


def _described(wanted: _Measurement) -> dict[str, Any]:
    return {**wanted.prepared.to_json(), "from": wanted.origins}


def _document(
    wanted: _Measurement, request: AccuracyRequest, ran: Runnable, tally: Tally, listing: Path
) -> dict[str, Any]:
    images = wanted.images
    names = wanted.names
    return {
        "bundle": str(wanted.bundle.path),
        "bundle_sha256": manifest_digest(wanted.bundle.path),
        "ran_on": ran.ran_on,
        "exact_program": ran.exact_program,
        "folder": str(request.folder),
        "images": images.total,
        "chosen": images.chosen,
        "images_sha256": images.identity,
        "seed": images.seed,
        "classes": wanted.classes.count,
        "class_names": None if names is None else list(names),
        "labels": images.labels,
        "preprocessing": _described(wanted),
        **tally.to_json(),
        "list": str(listing),
        "journal": None if request.journal is None else str(request.journal),
    }
