"""Labelled images as they were found: in a folder, by a CSV file, or in files of arrays."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3c.accuracy.image_sets import NO_LABELS, Classes, Image, labels_in, open_images
from mbv3c.errors import ImageError, UsageError
from mbv3c.quantization.images import IMAGES, Preprocessing, read_pixels, resized
from mbv3c.training.array_files import ArrayPart, is_idx, read_idx, read_npz

Pixels = NDArray[np.uint8]
Read = Callable[[Preprocessing, Sequence[int]], Iterator[Pixels | ImageError]]

_ARRAYS = ".npz"
# Folders that part the images of a folder, and what they are for.
_PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_THREADS, _AHEAD = 4, 64
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Given:
    """A part of the images as they were found.

    Attributes:
        labels: number of the class of each image.
        read: function that yields some of the images, prepared: HWC with one channel or three,
            red, green and blue; of a broken one why it is broken.
        fingerprint: hash over what was found; of files over names, sizes and times.
        whole: whether the images have no margin that may be cut off.
        origin: where the classes come from, in words.
    """

    labels: NDArray[np.int64]
    read: Read
    fingerprint: str
    whole: bool
    origin: str


def classes_of(source: Path, labels: Path | None = None) -> Classes:
    """Return how many classes the images of a source have, and their names.

    Raises:
        UsageError: there are no images with classes.
    """
    if labels == NO_LABELS:
        raise UsageError("training needs the class of every image: --labels none is not possible")
    if _is_of_arrays(source):
        data = read_idx(source) if source.is_dir() else read_npz(source)
        most = max(int(part.labels.max()) for part in data.parts.values()) + 1
        _check_count(source, most)
        if data.names is not None and len(data.names) < most:
            raise UsageError(f"{source} has {most} classes, and {len(data.names)} class_names")
        return Classes(len(data.names) if data.names else most, data.names)
    names = _names(source, labels)
    if all(name.isascii() and name.isdecimal() for name in names):
        _check_count(source, count := max(map(int, names)) + 1)
        return Classes(count)
    return Classes(len(names), tuple(names))


def _check_count(source: Path, count: int) -> None:
    if count > _MOST_CLASSES:
        raise UsageError(
            f"{source} has a class number {count - 1}, which makes {count:,} classes, as they "
            f"count from 0; {_MOST_CLASSES:,} is the most: number them anew, or name them by words"
        )


def given_images(
    source: Path, classes: Classes, labels: Path | None = None
) -> Mapping[str, Given]:
    """Return the images of a source by what they are for: `train`, `validation` and `test`.

    Args:
        source: a folder of images in folders of their classes, which may lie in folders `train`,
            `validation` (or `val`) and `test`; a folder of images that `labels` has the classes
            of; an .npz file; or a folder of IDX files.
        classes: the classes of the model.
        labels: CSV file with the columns `file` and `label`.

    Raises:
        UsageError: there are no images there, or their classes are not those of the model.
    """
    if _is_of_arrays(source):
        if labels is not None:
            raise UsageError(f"--labels is for folders of images, and {source} has its own")
        data = read_idx(source) if source.is_dir() else read_npz(source)
        _check_names(source, data.names, classes)
        return {name: _of_arrays(source, part, classes) for name, part in data.parts.items()}
    parts = {} if labels else _parts(source)
    if not parts:
        return {"train": _of_files(source, classes, labels)}
    # A part may lack a class, but in all of them the classes are those of the training images.
    own = classes_of(source)
    if classes.names is None and own.count == classes.count:
        classes = own
    return {name: _of_files(folder, classes, None) for name, folder in parts.items()}


def _is_of_arrays(source: Path) -> bool:
    return source.suffix.lower() == _ARRAYS or is_idx(source)


def _parts(source: Path) -> dict[str, Path]:
    """Return the folders that part a folder; none if its folders are classes."""
    if not (source / "train").is_dir():
        return {}
    names = sorted(path.name for path in source.iterdir() if path.is_dir() and path.name[0] != ".")
    if not set(names) <= set(_PARTS):
        return {}
    return {_PARTS[name]: source / name for name in names}


def _names(source: Path, labels: Path | None) -> list[str]:
    """Return the names of the classes of a folder, as its folders or the labels have them."""
    if not source.is_dir():
        raise UsageError(f"no such folder, and no .npz file: {source}; name one with images")
    if labels is not None:
        return labels_in(labels)
    folder = _parts(source).get("train", source)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not names:
        raise UsageError(
            f"{folder} has no folders of classes; put the images into some, or say what they are "
            "with --labels CSV"
        )
    return names


def _check_names(source: Path, names: tuple[str, ...] | None, classes: Classes) -> None:
    if names is not None and classes.names is not None and names != classes.names:
        raise UsageError(
            f"{source} and the model name their classes otherwise, or in another order: "
            f"{', '.join(names[:5])} and {', '.join(classes.names[:5])}"
        )


def _of_arrays(source: Path, part: ArrayPart, classes: Classes) -> Given:
    most = int(part.labels.max())
    if most >= classes.count:
        raise UsageError(
            f"{source} has a label {most}, and the model {classes.count} classes, from 0 on"
        )

    def read(prepared: Preprocessing, chosen: Sequence[int]) -> Iterator[Pixels]:
        from PIL import Image

        for index in chosen:
            image = part.images[index]
            grey = image.shape[2] == 1
            pixels = resized(Image.fromarray(image[..., 0] if grey else image), prepared)
            yield pixels[..., None] if grey else pixels

    return Given(part.labels, read, part.digest, True, f"the labels in {source}")


def _of_files(folder: Path, classes: Classes, labels: Path | None) -> Given:
    found = open_images(folder, classes, IMAGES, labels=labels)
    if not found.labelled:
        raise UsageError(f"{folder} does not say which class each image has: {found.labels}")
    images = list(found.read())
    numbers = np.array([image.label for image in images], np.int64)

    def read(prepared: Preprocessing, chosen: Sequence[int]) -> Iterator[Pixels | ImageError]:
        return _decoded((images[index] for index in chosen), prepared)

    where = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()
    return Given(numbers, read, f"{where} {found.fingerprint}", False, found.labels)


def _decoded(images: Iterator[Image], prepared: Preprocessing) -> Iterator[Pixels | ImageError]:
    """Read files in threads, some ahead, and yield them in their order."""

    def one(path: Path) -> Pixels | ImageError:
        try:
            return read_pixels(path, prepared)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[Pixels | ImageError]] = deque()
        try:
            while True:
                for image in islice(images, _AHEAD - len(waiting)):
                    waiting.append(pool.submit(one, image.path))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
