"""Read the user's own inputs from files: arrays, and images as calibration prepares them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from mbv3c.errors import UsageError
from mbv3c.feeds import Array, Feed
from mbv3c.graphs.load import model_inputs
from mbv3c.parity.own_inputs import OwnInputs
from mbv3c.quantization.calibration import calibration_files, named_arrays, samples, taken_by
from mbv3c.quantization.images import (
    AS_THE_MODEL_SAYS,
    IMAGES,
    Overrides,
    origins,
    preprocessing,
)

# All inputs and outputs of a check are in memory at once, and an emulator takes seconds for each.
MOST = 100


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


def read_inputs(model: onnx.ModelProto, wanted: InputsRequest) -> OwnInputs:
    """Read the inputs of a model, in the order of the files' names.

    Images and arrays are taken as `calibration.folder_inputs` says, but only as many as are
    wanted.

    Raises:
        UsageError: there is nothing to read, or the limit is impossible.
        CalibrationError: a file is broken or does not fit; the message names the file.
    """
    most = MOST if wanted.limit is None else wanted.limit
    if most < 1:
        raise UsageError(f"--limit {most} leaves no input; take 1 at least")
    files = calibration_files(wanted.path)
    taken, processing = [taken_by(value) for value in model_inputs(model)], None
    every: Iterator[tuple[str, Feed]]
    if len(taken) > 1:
        every = ((path.name, named_arrays(path, taken)) for path in files)
    else:
        shape = taken[0].shape
        if any(path.suffix.lower() in IMAGES for path in files):
            processing = preprocessing(model, shape, wanted.preparing)
        named = ((path.name, x) for path in files for x in samples(path, taken[0], processing))
        every = _batches(named, shape[0])
    inputs = list(islice(every, most))
    if not inputs:
        raise UsageError(f"{wanted.path}: its arrays hold no inputs; put some there")
    count = f"{len(inputs)} input{'s' * (len(inputs) > 1)}"
    count = f"the first {count}" if len(inputs) == most else count
    how = "" if processing is None else f"; images: {processing}"
    document = None
    if processing is not None:
        document = {**processing.to_json(), "from": origins(model, wanted.preparing)}
    names, feeds = zip(*inputs, strict=True)
    return OwnInputs(f"{count} of {wanted.path}{how}", names, list(feeds), document)


def _batches(named: Iterator[tuple[str, Array]], size: int) -> Iterator[tuple[str, Array]]:
    """Make batches of single inputs; the last one is filled up with its last input."""
    while batch := list(islice(named, size)):
        rows = [x for _, x in batch]
        names = ", ".join(dict.fromkeys(name for name, _ in batch))
        yield names, np.stack(rows + rows[-1:] * (size - len(rows)))
