"""The inputs that a model is calibrated and measured on: files of a folder, or random numbers.

Inputs are read when they are needed, one batch at a time, and as often as they are needed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.door.arrays import map_array, open_arrays
from mbv3c.door.files import Refused
from mbv3c.errors import CalibrationError, UsageError
from mbv3c.feeds import Array, Feed, as_feed, native, shape_text
from mbv3c.graphs.frames import pixel_top
from mbv3c.graphs.load import dtype_of, fixed_shape, model_inputs
from mbv3c.graphs.outputs import metadata_of
from mbv3c.parity.inputs import as_taken, in_type
from mbv3c.quantization import image_metadata
from mbv3c.quantization.calibration_files import WITHOUT_LIMIT, Sampling, find_files
from mbv3c.quantization.images import (
    AS_THE_MODEL_SAYS,
    IMAGES,
    Overrides,
    Preprocessing,
    preprocessing,
    read_image,
)

# The shapes of a model's inputs, in their order.
Shapes = tuple[tuple[int, ...], ...]

RANDOM_WARNING = (
    "WARNING: calibrating on RANDOM inputs, not on images: the ranges do not fit real inputs, and "
    "the figures say nothing about accuracy on them"
)
_RANDOM_INPUTS = 16  # if nobody says how many
_MOST_HELD_OUT = 8
_HELD_OUT_ONE_IN = 4


@dataclass(frozen=True)
class Calibration:
    """Inputs to calibrate and measure on.

    Attributes:
        source: origin of the inputs, in words.
        random: whether the inputs are random numbers, which say little about real images.
        batches: number of batches, each of the shape of the model's input.
        read: function that reads all batches, in an order that never changes.
        again: function that takes the model with inputs of another shape, and the shapes of all
            its programs, and returns its inputs; None where these are for one shape.
    """

    source: str
    random: bool
    batches: int
    read: Callable[[], Iterator[Feed]]
    again: "Callable[[onnx.ModelProto, Sequence[Shapes]], Calibration] | None" = None

    @property
    def held_out(self) -> frozenset[int]:
        """The batches that are for measuring only: one in four, spread evenly, at most eight."""
        count = min(_MOST_HELD_OUT, self.batches // _HELD_OUT_ONE_IN)
        return frozenset((2 * i + 1) * self.batches // (2 * count) for i in range(count))

    def calibrating(self) -> Iterator[Feed]:
        """Read the batches that ranges are taken from."""
        held_out = self.held_out
        return (x for i, x in enumerate(self.read()) if i not in held_out)

    def evaluating(self) -> list[Feed]:
        """Read the batches that are measured on: those held out, or the first few if none are."""
        held_out = self.held_out
        if not held_out:
            return list(islice(self.read(), _MOST_HELD_OUT))
        return [x for i, x in enumerate(self.read()) if i in held_out]


def check_source(
    folder: Path | None,
    count: int | None,
    seed: int | None,
    sampling: Sampling = WITHOUT_LIMIT,
) -> None:
    """Refuse, before any work, options that do not name one source of inputs.

    Raises:
        UsageError: there is no source, or there are two, or a seed without random inputs, or as
            `find_files` says.
    """
    if (folder is None) == (count is None):
        raise UsageError(
            "say what to calibrate on: --calibration FOLDER with images or arrays, or "
            "--random-inputs 16"
        )
    if seed is not None and count is None:
        raise UsageError("--input-seed belongs to --random-inputs")
    if folder is None and sampling != WITHOUT_LIMIT:
        raise UsageError("--calibration-limit and --calibration-seed belong to --calibration")
    if folder is not None:
        find_files(folder, sampling)


def inputs_from(
    model: onnx.ModelProto,
    folder: Path | None,
    count: int | None,
    seed: int | None,
    overrides: Overrides = AS_THE_MODEL_SAYS,
    sampling: Sampling = WITHOUT_LIMIT,
) -> Calibration:
    """Return the inputs of a folder, or random ones.

    Raises:
        Mbv3cError: as `check_source`, `folder_inputs` and `random_inputs` say.
    """
    check_source(folder, count, seed, sampling)
    if folder is not None:
        return folder_inputs(model, folder, overrides, sampling=sampling)
    if overrides != AS_THE_MODEL_SAYS:
        raise UsageError(
            "how images are prepared belongs to --calibration FOLDER: random inputs are no images"
        )
    return random_inputs(model, count or 0, seed or 0)


def random_inputs(model: onnx.ModelProto, count: int, seed: int = 0) -> Calibration:
    """Draw inputs: half of the variance is white noise, half one offset per image and channel.

    Raises:
        UsageError: `count` is no number of inputs.
    """
    if count < 1:
        raise UsageError(f"{count} random inputs are too few; take 16, for example")
    if seed < 0:
        raise UsageError(f"the seed of the inputs must not be negative, got {seed}")
    values = [(value, fixed_shape(value)) for value in model_inputs(model)]

    def read() -> Iterator[Feed]:
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            arrays = []
            for value, shape in values:
                flat = (*shape[:2], *(1 for _ in shape[2:]))
                x = (rng.standard_normal(shape) + rng.standard_normal(flat)) / np.sqrt(2)
                arrays.append(as_taken(model, value, x.astype(np.float32)))
            yield as_feed(arrays)

    source = f"{count} random inputs (seed {seed}){_pixels(model)}"
    again = lambda other, shapes: random_inputs(other, count, seed)  # noqa: E731
    return Calibration(source, True, count, read, again)


def _pixels(model: onnx.ModelProto) -> str:
    """Say in which range inputs are, if the model normalises them itself."""
    top = pixel_top(model)
    return "" if top is None else f", pixels from 0 to {top:g}, which the model normalises itself"


def folder_inputs(
    model: onnx.ModelProto,
    folder: Path,
    overrides: Overrides = AS_THE_MODEL_SAYS,
    shapes: Sequence[Shapes] = (),
    sampling: Sampling = WITHOUT_LIMIT,
) -> Calibration:
    """Take the images and arrays of a folder, which `find_files` finds, in its order.

    A .npy or .npz array is one input, with or without the batch, or several, as the model takes
    them. Images are prepared as `images.preprocessing` says. The last batch is filled up with its
    last input. For a model with several inputs every file is an .npz file, in which each input
    has its array, of the whole shape, by its name. Where a model is compiled for several `shapes`,
    arrays of the others are left out.

    Raises:
        UsageError: as `find_files` says, or there is nothing of the model's shape.
        CalibrationError: a file is broken or does not fit; the message names the file.
    """
    found = find_files(folder, sampling)
    files, taken = found.files, inputs_taken(model, shapes)

    def again(other: onnx.ModelProto, every: Sequence[Shapes]) -> Calibration:
        return folder_inputs(other, folder, overrides, every, sampling)

    if len(taken) > 1:
        files = tuple(path for path in files if not is_elsewhere(path, taken))
        for path in files:
            named_arrays(path, taken)
        _check_some(len(files), folder, taken)
        source = f"{len(files)} files of {folder}"
        return Calibration(
            source, False, len(files), lambda: (named_arrays(path, taken) for path in files), again
        )
    shape = taken[0].shape
    images = any(path.suffix.lower() in IMAGES for path in files)
    processing = preprocessing(model, shape, overrides) if images else None
    # Every file is read and checked once before any work begins that would be lost.
    count = sum(1 for path in files for _ in samples(path, taken[0], processing))
    _check_some(count, folder, taken)
    size = shape[0]

    def read() -> Iterator[Array]:
        every = (x for path in files for x in samples(path, taken[0], processing))
        while batch := list(islice(every, size)):
            yield np.stack(batch + batch[-1:] * (size - len(batch)))

    how = "" if processing is None else _prepared(model, processing, overrides)
    return Calibration(found.source(count, folder) + how, False, -(-count // size), read, again)


def _check_some(count: int, folder: Path, taken: "Sequence[Taken]") -> None:
    if count:
        return
    of_shape = ""
    if taken[0].others:
        of_shape = f" of the shape {shape_text(entry.shape for entry in taken)}"
    raise UsageError(f"{folder}: its arrays hold no inputs{of_shape}; put some there")


def _prepared(model: onnx.ModelProto, processing: Preprocessing, overrides: Overrides) -> str:
    """Say how images are prepared, if not as the model's head or ImageNet have it."""
    if overrides == AS_THE_MODEL_SAYS and not image_metadata.says_more(metadata_of(model)):
        return _pixels(model)
    return f", images: {processing}"


@dataclass(frozen=True)
class Taken:
    """An input of a model: its name, and the shape and type of what it takes.

    Attributes:
        others: the shapes that it takes in other programs, whose arrays are left to them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    others: tuple[tuple[int, ...], ...] = ()

    def check(self, name: str, array: Array, where: str = "") -> None:
        """Make sure of the type of an array, and that its numbers are finite."""
        if array.dtype != self.dtype:
            raise CalibrationError(
                f"{name} holds {array.dtype}, the model takes {self.dtype}; write it as "
                f"{self.dtype}, scaled and normalised as the model takes it"
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise CalibrationError(f"{name} holds NaN or infinity{where}")


def inputs_taken(model: onnx.ModelProto, shapes: Sequence[Shapes] = ()) -> list[Taken]:
    """Say what the inputs of a model take, which may be compiled for several `shapes`."""
    values = model_inputs(model)
    own = tuple(fixed_shape(value) for value in values)
    others = [each for each in shapes if each != own]
    return [
        Taken(value.name, shape, dtype_of(value), tuple(each[index] for each in others))
        for index, (value, shape) in enumerate(zip(values, own, strict=True))
    ]


def is_elsewhere(path: Path, taken: Sequence[Taken]) -> bool:
    """Say whether an .npz file has the inputs of another program of the model."""
    if not taken[0].others or path.suffix.lower() != ".npz":
        return False
    shapes = {name.removeprefix(f"{path}: "): array.shape for name, array in _arrays(path)}
    given = tuple(shapes.get(entry.name) for entry in taken)
    return given in list(zip(*(entry.others for entry in taken), strict=True))


def named_arrays(path: Path, taken: Sequence[Taken]) -> Feed:
    """Read the arrays of a model's inputs from an .npz file.

    Raises:
        CalibrationError: the file is broken or does not fit; the message names it.
    """
    names = ", ".join(entry.name for entry in taken)
    if path.suffix.lower() != ".npz":
        raise CalibrationError(
            f"{path}: the model has {len(taken)} inputs; write every set of them to an .npz file "
            f"with the arrays {names}"
        )
    arrays = {name.removeprefix(f"{path}: "): array for name, array in _arrays(path)}
    for entry in taken:
        if entry.name not in arrays:
            raise CalibrationError(f"{path} has no array {entry.name!r}; the model takes {names}")
        array = arrays[entry.name]
        entry.check(f"{path}: {entry.name}", array)
        if array.shape != entry.shape:
            raise CalibrationError(
                f"{path}: {entry.name} has the shape {array.shape}, the model takes {entry.shape}"
            )
    return as_feed([arrays[entry.name] for entry in taken])


def samples(path: Path, taken: Taken, processing: Preprocessing | None) -> Iterator[Array]:
    """Read the inputs of a file, each without the batch.

    Raises:
        CalibrationError: the file is broken or does not fit; the message names it.
    """
    if processing is not None and path.suffix.lower() in IMAGES:
        yield in_type(read_image(path, processing), taken.dtype)
        return
    shape = taken.shape
    for name, array in _arrays(path):
        if not _is_of(array, shape):
            if any(_is_of(array, other) for other in taken.others):
                continue
            raise CalibrationError(
                f"{name} has the shape {array.shape}, the model takes {shape} (or another batch "
                "of that); write it in that shape or remove it"
            )
        rows = array[None] if array.shape == shape[1:] else array
        for index, row in enumerate(rows):
            taken.check(name, row, f", in input {index}")
            yield np.asarray(row)


def _is_of(array: Array, shape: tuple[int, ...]) -> bool:
    """Say whether an array is one input of a shape, or several."""
    return array.shape == shape[1:] or array.shape[1:] == shape[1:]


def _arrays(path: Path) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Read the arrays of a file, each with a name for messages; of .npy only what is looked at."""
    try:
        if path.suffix.lower() == ".npy":
            yield str(path), native(map_array(path))
            return
        with open_arrays(path) as archive:
            for key, array in archive.items():
                yield f"{path}: {key}", native(array)
    except (OSError, Refused) as error:
        kind = path.suffix.lower()
        raise CalibrationError(
            f"{path} is no {kind} file, or it is broken: {error}; write it anew or remove it"
        ) from error


def random_with_warning(model: onnx.ModelProto, warn: Callable[[str], None]) -> Calibration:
    """Return random inputs because nobody gave others, and say so."""
    warn(f"{RANDOM_WARNING}; --calibration FOLDER takes images")
    return random_inputs(model, _RANDOM_INPUTS)
