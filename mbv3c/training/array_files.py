"""Images with their classes in files of arrays: .npz, and IDX, as MNIST and Fashion-MNIST have.

An .npz file has `images` (N, H, W) or (N, H, W, 1 or 3) of uint8 and `labels` (N) of whole
numbers, and perhaps `test_images`, `test_labels` and `class_names`. Of IDX a folder has
`train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`, and perhaps those of `t10k`; the
files may be unpacked. Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database".
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.door.arrays import MOST_ARRAYS, open_arrays
from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import UsageError

_PARTS = {"train": "train", "t10k": "test"}  # names of IDX files, and what they are for
_GZIP = b"\x1f\x8b"
_IDX_UINT8 = 8
_WORDS = "biufU"  # kinds of arrays: numbers, and names of classes


@dataclass(frozen=True)
class ArrayPart:
    """Images of a part of the data, and their classes.

    Attributes:
        images: images, NHWC, with one channel or three.
        labels: numbers of the classes.
        digest: hash over both.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    digest: str


@dataclass(frozen=True)
class ArrayData:
    """What files of arrays hold.

    Attributes:
        parts: `train`, and perhaps `test`.
        names: names of the classes, by number; None if there are none.
    """

    parts: Mapping[str, ArrayPart]
    names: tuple[str, ...] | None


def is_idx(folder: Path) -> bool:
    """Say whether a folder holds IDX files."""
    return folder.is_dir() and _idx_file(folder, "train", "images-idx3") is not None


def read_idx(folder: Path) -> ArrayData:
    """Read the IDX files of a folder.

    Raises:
        UsageError: a file is missing or damaged, or images and classes do not fit each other.
    """
    parts = {}
    for name, part in _PARTS.items():
        images, labels = (_idx_file(folder, name, kind) for kind in ("images-idx3", "labels-idx1"))
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            there, missing = ("images", "labels") if images else ("labels", "images")
            raise UsageError(f"{folder} holds {name}-{there}, and no {name}-{missing}")
        parts[part] = _part(str(folder), name, _read_idx(images), _read_idx(labels))
    return ArrayData(parts, None)


def read_npz(path: Path) -> ArrayData:
    """Read an .npz file.

    Raises:
        UsageError: it is damaged, or arrays are missing or do not fit each other.
    """
    try:
        with open_arrays(path, _WORDS) as archive:
            wanted = ("images", "labels", "test_images", "test_labels", "class_names")
            found = {name: archive[name] for name in wanted if name in archive}
            others = sorted(set(archive) - set(wanted))
    except (OSError, Refused) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    parts = {}
    for start, part in (("", "train"), ("test_", "test")):
        names = [f"{start}images", f"{start}labels"]
        whole = all(name in found for name in names)
        if whole:
            parts[part] = _part(str(path), part, *(found[name] for name in names))
        elif part == "train" or any(name in found for name in names):
            missing = next(name for name in names if name not in found)
            there = ", ".join([*found, *others]) or "nothing"
            raise UsageError(
                f"{path} holds no array {missing!r} ({there}); write images and labels"
            )
    return ArrayData(parts, _names(path, found.get("class_names")))


def _names(path: Path, array: NDArray[Any] | None) -> tuple[str, ...] | None:
    if array is None:
        return None
    names = tuple(map(str, array.ravel()))
    if array.dtype.kind != "U" or len(set(names)) != len(names) or not all(names):
        raise UsageError(f"{path}: class_names must be different texts, one for each class")
    return names


def _part(place: str, name: str, images: NDArray[Any], labels: NDArray[Any]) -> ArrayPart:
    where = f"{place}, {name}"
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(
            f"{where}: images must be uint8 of the shape (N, H, W) or (N, H, W, 3), got "
            f"{images.dtype} {images.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UsageError(
            f"{where}: labels must be {len(images)} whole numbers, one for each image, got "
            f"{labels.dtype} {labels.shape}"
        )
    if not images.size or (labels < 0).any():
        raise UsageError(f"{where}: " + ("a label is negative" if images.size else "no images"))
    if labels.max() > np.iinfo(np.int32).max:
        raise UsageError(f"{where}: the label {labels.max()} is no number of a class")
    images, labels = np.ascontiguousarray(images), labels.astype(np.int64)
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(images.data)
    digest.update(labels.tobytes())
    return ArrayPart(images, labels, digest.hexdigest())


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    names = (f"{part}-{kind}-ubyte{suffix}" for suffix in (".gz", ""))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of uint8, packed or not.

    The header is two zeros, the type, the number of dimensions, and these in big-endian order.
    """
    try:
        data = read_plain(path, MOST_ARRAYS)
        if data[:2] == _GZIP:
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MOST_ARRAYS)
    except (OSError, EOFError, zlib.error, Refused) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    dimensions = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data[4 : 4 + 4 * dimensions], ">u4").tolist()
    begin = 4 + 4 * dimensions
    fits = len(shape) == dimensions and len(data) - begin == prod(shape)
    if data[:3] != bytes([0, 0, _IDX_UINT8]) or not 1 <= dimensions <= 3 or not fits:
        raise UsageError(f"{path} is no IDX file of uint8, or it is cut short")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
