"""What a model takes for one inference: an array, or several in the order of its inputs.

Several arrays lie in x.npy, x.1.npy, x.2.npy and so on, as the outputs of `mbv3c_run` do.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.door.arrays import read_array

Array = NDArray[Any]
Feed = Array | tuple[Array, ...]


def arrays_of(feed: Feed) -> tuple[Array, ...]:
    """Return the arrays of a feed, one for each input of the model."""
    return feed if isinstance(feed, tuple) else (feed,)


def as_feed(arrays: Sequence[Array]) -> Feed:
    """Return what a model with so many inputs takes: the array itself, if there is one."""
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def native(array: Array) -> Array:
    """Return an array in the byte order of this machine, with equal numbers."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def shape_text(shapes: Iterable[Sequence[int]]) -> str:
    """Write the shapes of a model's inputs in one line: `1x3x224x224`, several apart by spaces."""
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def shapes_of_feed(feed: Feed) -> tuple[tuple[int, ...], ...]:
    """Return the shape of every array of a feed."""
    return tuple(array.shape for array in arrays_of(feed))


def numbered_files(first: Path) -> Iterator[Path]:
    """Yield the names of the files of several arrays: y.npy, y.1.npy, y.2.npy and so on."""
    yield first
    for index in count(1):
        yield first.with_suffix(f".{index}.npy")


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file in C order; `numpy.save` alone does not notice a full disk.

    Raises:
        OSError: the file cannot be written.
    """
    data = io.BytesIO()
    np.save(data, np.asarray(array, order="C"))
    path.write_bytes(data.getbuffer())


def save_raw(path: Path, array: NDArray[Any]) -> None:
    """Write the elements of an array in C order; `ndarray.tofile` hides that a disk is full.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(np.ascontiguousarray(array).tobytes())


def save_feed(first: Path, feed: Feed) -> None:
    """Write the arrays of a feed in C order, the first one into the file `first`."""
    for array, file in zip(arrays_of(feed), numbered_files(first), strict=False):
        save_array(file, array)


def load_feed(first: Path) -> Feed:
    """Read what `save_feed` wrote.

    Raises:
        FileNotFoundError: there is no first file.
        Refused: a file is damaged.
    """
    files = numbered_files(first)
    read = [read_array(next(files))]
    return as_feed(read + [read_array(file) for file in takewhile(Path.is_file, files)])


def only_array(feed: Feed) -> Array:
    """Return the array of a model that takes one image."""
    (array,) = arrays_of(feed)
    return array
