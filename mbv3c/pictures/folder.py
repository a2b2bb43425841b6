"""Run a bundle on the pictures of a folder, one after the other, and say what it sees on each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.bundle import read_bundled
from mbv3c.errors import ImageError, Mbv3cError
from mbv3c.execution.detection import Thresholds
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Stream, open_stream
from mbv3c.graphs.load import dtype_of, fixed_shape, model_input
from mbv3c.graphs.outputs import detector_outputs
from mbv3c.inference import detections
from mbv3c.parity.inputs import in_type
from mbv3c.pictures.answers import AS_USUAL, NO_ANSWER, Answer, Asked, Placing, answers
from mbv3c.pictures.drawing import drawn, save
from mbv3c.pictures.listing import pictures_in
from mbv3c.pictures.meaning import Meaning, meaning_of
from mbv3c.quantization.decoding import decode
from mbv3c.quantization.images import (
    AS_THE_MODEL_SAYS,
    Overrides,
    Preprocessing,
    as_input,
    part_shown,
    preprocessing,
    without_warnings,
)
from mbv3c.targets import backend_for, open_bundle
from mbv3c.trust import MADE_HERE, Trust

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class PicturesRequest:
    """What is asked of pictures.

    Attributes:
        folder: the folder of the pictures, with all folders below.
        asked: how much is shown.
        labels: names of the classes, in the place of the bundle's own.
        preparing: how images are prepared.
        thresholds: what a detector reports; None for the usual.
        drawings: a folder to draw into, a picture each under its own name; None to draw nothing.
    """

    folder: Path
    asked: Asked = AS_USUAL
    labels: tuple[str, ...] = ()
    preparing: Overrides = AS_THE_MODEL_SAYS
    thresholds: Thresholds | None = None
    drawings: Path | None = None


@dataclass(frozen=True)
class Seen:
    """A picture, and what a network says of it.

    Attributes:
        file: its path in the folder.
        answer: what the network says.
        broken: why it could not be read; empty if it was.
    """

    file: str
    answer: Answer = NO_ANSWER
    broken: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "file": self.file.encode(errors="backslashreplace").decode(),
            **({"broken": self.broken} if self.broken else self.answer.to_json()),
        }


def placing_of(picture: "Image.Image", processing: Preprocessing) -> Placing:
    """Return where the input of a network lies in a picture."""
    return Placing(part_shown(picture.size, processing), processing.height, processing.width)


def run_pictures(
    path: Path,
    request: PicturesRequest,
    report: Callable[[Seen, Meaning], None],
    *,
    place: Place | None = None,
    trust: Trust = MADE_HERE,
) -> str:
    """Run a bundle on the pictures of a folder, and return what executed it.

    Args:
        path: the bundle.
        request: what is asked.
        report: is told of every picture, in the order of their names.
        place: the device to run on; None for this machine.
        trust: what the user says of a bundle from elsewhere.

    Raises:
        UsageError: there are no pictures, the input is no image, or the bundle may not run here.
        Mbv3cError: none of the pictures can be read, the bundle is damaged or nothing here can run
            it.
    """
    names = pictures_in(request.folder)
    bundle = open_bundle(path, trust)
    model, meaning = read_bundled(bundle.model), meaning_of(bundle.manifest, request.labels)
    input_ = model_input(model)
    processing = preprocessing(model, fixed_shape(input_), request.preparing)
    backend, broken, first = backend_for(bundle), 0, ""
    with (
        without_warnings(),
        backend.open(bundle, lambda step: None, place=place, stand_in=False) as opened,
        open_stream(opened.runner, opened.folder, len(bundle.output_names)) as stream,
    ):
        run = _Run(model, bundle.output_names, meaning, processing, request)
        for seen in _all_seen(run, names, stream):
            broken += bool(seen.broken)
            first = first or seen.broken
            report(seen, meaning)
    if broken == len(names):
        raise Mbv3cError(
            f"none of the {broken} images in {request.folder} can be read; the first is "
            f"{names[0]}: {first}"
        )
    return opened.ran_on


@dataclass(frozen=True)
class _Run:
    """What does not change from picture to picture."""

    model: onnx.ModelProto
    outputs: Sequence[str]
    meaning: Meaning
    processing: Preprocessing
    request: PicturesRequest

    @property
    def shape(self) -> tuple[int, ...]:
        return fixed_shape(model_input(self.model))

    def meant(self, outputs: Sequence[NDArray[Any]], placings: Sequence[Placing]) -> list[Answer]:
        """Return what the outputs of a batch say of its pictures."""
        arrays = dict(zip(self.outputs, outputs, strict=True))
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        detector = detector_outputs(metadata, self.outputs)
        if detector is not None:
            arrays = detections(arrays, detector, self.shape, self.request.thresholds)
        return answers(self.meaning, arrays, self.request.asked, placings)


@dataclass(frozen=True)
class _Read:
    """A picture that was read; kept whole only where it is drawn onto."""

    x: NDArray[Any]
    placing: Placing
    picture: "Image.Image | None"


def _all_seen(run: _Run, names: Sequence[str], stream: Stream) -> Iterator[Seen]:
    """Run pictures in batches, and yield each in its order."""
    left, batch = iter(names), run.shape[0]
    while group := list(islice(left, batch * stream.at_once)):
        read = [_read(run, run.request.folder / name) for name in group]
        whole = [one for one in read if isinstance(one, _Read)]
        found: list[Answer] = []
        starts = range(0, len(whole), batch)
        if whole:
            rows = [[one.x for one in whole[start : start + batch]] for start in starts]
            stream.send([np.stack(row + row[-1:] * (batch - len(row))) for row in rows])
            for start, outputs in zip(starts, stream.receive(), strict=True):
                placings = [one.placing for one in whole[start : start + batch]]
                found += run.meant(outputs, placings)
        answered = iter(found)
        for name, one in zip(group, read, strict=True):
            if isinstance(one, str):
                yield Seen(name, broken=one)
                continue
            answer = next(answered)
            if run.request.drawings is not None:
                _draw(run, run.request.drawings / f"{name}.png", one, answer)
            yield Seen(name, answer)


def _read(run: _Run, path: Path) -> _Read | str:
    """Return a picture, or why it cannot be read."""
    try:
        picture = decode(path)
    except ImageError as error:
        return error.reason
    x = in_type(as_input(picture, run.processing), dtype_of(model_input(run.model)))
    kept = None if run.request.drawings is None else picture
    return _Read(x, placing_of(picture, run.processing), kept)


def _draw(run: _Run, path: Path, read: _Read, answer: Answer) -> None:
    assert read.picture is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    save(drawn(read.picture, answer, run.meaning, read.placing), path, path)
