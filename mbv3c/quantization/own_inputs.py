"""Read the user's own inputs from files: arrays, and images as calibration prepares them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from mbv3c.errors import UsageError
from mbv3c.feeds import Array, Feed, shape_text
from mbv3c.graphs.load import input_shapes_of
from mbv3c.parity.inputs import in_type
from mbv3c.parity.own_inputs import OwnInputs
from mbv3c.quantization.calibration import (
    Shapes,
    inputs_taken,
    is_elsewhere,
    named_arrays,
    samples,
)
from mbv3c.quantization.calibration_files import ARRAYS, EVERY, find_files
from mbv3c.quantization.images import (
    AS_THE_MODEL_SAYS,
    IMAGES,
    Overrides,
    described,
    preprocessing,
    read_image,
)

# All inputs and outputs of a check are in memory at once, and an emulator takes seconds for each.
MOST = 100
_HEAD, _OF_ARRAYS = 6, (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")


def is_picture(path: Path) -> bool:
    """Say whether a file is to be read as an image: whatever holds no arrays."""
    if path.suffix.lower() in ARRAYS or not path.is_file():
        return path.suffix.lower() in IMAGES
    with path.open("rb") as file:
        return not file.read(_HEAD).startswith(_OF_ARRAYS)


def picture_input(model: onnx.ModelProto, path: Path, preparing: Overrides) -> Feed:
    """Read an image as the input of a model, of which it fills the batch.

    Raises:
        UsageError: the input is no image of three channels.
        CalibrationError: the image is broken, or the model has several inputs.
    """
    taken, *others = inputs_taken(model)
    if others:
        return named_arrays(path, [taken, *others])
    x = read_image(path, preprocessing(model, taken.shape, preparing))
    return np.stack([in_type(x, taken.dtype)] * taken.shape[0])


class NoInputsError(UsageError):
    """There is nothing to read of the shape that a model takes."""


@dataclass(frozen=True)
class InputsRequest:
    """Which inputs a user wants.

    Attributes:
        path: a folder with images and arrays, or one such file.
        preparing: how images are prepared.
        limit: number of inputs to take, each a whole batch; None for `MOST` at most.
    """

    path: Path
    preparing: Overrides = AS_THE_MODEL_SAYS
    limit: int | None = None


def read_inputs(
    model: onnx.ModelProto, wanted: InputsRequest, shapes: Sequence[Shapes] = ()
) -> OwnInputs:
    """Read the inputs of a model, in the order of `find_files`.

    Arrays of others of its `shapes`, if it was compiled for several, are left out.

    Images and arrays are taken as `calibration.folder_inputs` says, but only as many as are
    wanted.

    Raises:
        UsageError: there is nothing to read, or the limit is impossible.
        CalibrationError: a file is broken or does not fit; the message names the file.
    """
    most = MOST if wanted.limit is None else wanted.limit
    if most < 1:
        raise UsageError(f"--limit {most} leaves no input; take 1 at least")
    files = find_files(wanted.path, EVERY).files
    taken, processing = inputs_taken(model, shapes), None
    every: Iterator[tuple[str, Feed]]
    if len(taken) > 1:
        own = (path for path in files if not is_elsewhere(path, taken))
        every = ((path.name, named_arrays(path, taken)) for path in own)
    else:
        shape = taken[0].shape
        if any(path.suffix.lower() in IMAGES for path in files):
            processing = preprocessing(model, shape, wanted.preparing)
        named = ((path.name, x) for path in files for x in samples(path, taken[0], processing))
        every = _batches(named, shape[0])
    inputs = list(islice(every, most))
    if not inputs:
        raise NoInputsError(f"{wanted.path}: its arrays hold no inputs; put some there")
    count = f"{len(inputs)} input{'s' * (len(inputs) > 1)}"
    count = f"the first {count}" if len(inputs) == most else count
    how = "" if processing is None else f"; images: {processing}"
    document = None if processing is None else described(model, wanted.preparing)
    names, feeds = zip(*inputs, strict=True)
    return OwnInputs(f"{count} of {wanted.path}{how}", names, list(feeds), document)


def read_all_inputs(
    models: Sequence[onnx.ModelProto], wanted: InputsRequest
) -> tuple[OwnInputs, list[list[Feed]]]:
    """Read the inputs of a model that was compiled for several shapes, and return those of each.

    Images are inputs of every shape, and arrays of the one that is theirs.

    Raises:
        Mbv3cError: as `read_inputs` says.
    """
    shapes = [input_shapes_of(model) for model in models]
    read: list[OwnInputs | None] = []
    for model in models:
        try:
            read.append(read_inputs(model, wanted, shapes))
        except NoInputsError:
            read.append(None)
    found = [own for own in read if own is not None]
    if not found:
        raise NoInputsError(f"{wanted.path}: its arrays hold no inputs; put some there")
    joined = OwnInputs(
        _sources(shapes, read),
        [name for own in found for name in own.files],
        [feed for own in found for feed in own.feeds],
        next((own.preprocessing for own in found if own.preprocessing), None),
    )
    return joined, [own.feeds if own is not None else [] for own in read]


def _sources(shapes: Sequence[Shapes], read: Sequence[OwnInputs | None]) -> str:
    """Say where the inputs of every shape come from; of several shapes each says its own."""
    if len(shapes) == 1:
        return "; ".join(own.source for own in read if own is not None)
    return "; ".join(
        f"{shape_text(shape)}: {'none' if own is None else own.source}"
        for shape, own in zip(shapes, read, strict=True)
    )


def _batches(named: Iterator[tuple[str, Array]], size: int) -> Iterator[tuple[str, Array]]:
    """Make batches of single inputs; the last one is filled up with its last input."""
    while batch := list(islice(named, size)):
        rows = [x for _, x in batch]
        names = ", ".join(dict.fromkeys(name for name, _ in batch))
        yield names, np.stack(rows + rows[-1:] * (size - len(rows)))
