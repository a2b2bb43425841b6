"""Labelled images to train and to evaluate with, prepared once for a model's input.

What was prepared lies in the cache, as pixels of 8 bits, and is mapped into memory: several
processes share it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mbv3c.accuracy.image_sets import Classes
from mbv3c.atomic import new_folder
from mbv3c.door.arrays import map_array
from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import ImageError, UsageError
from mbv3c.execution.cache import cache_root, digest_of, only_one
from mbv3c.graphs.load import input_shape_of
from mbv3c.graphs.outputs import metadata_of
from mbv3c.quantization.image_metadata import SHOWN
from mbv3c.quantization.images import TO_ONE, Preprocessing, preprocessing, without_warnings
from mbv3c.training.augment import Pixels, augmented
from mbv3c.training.classifier import classes_in
from mbv3c.training.given import Given, classes_of, given_images

PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, ...] = ("train", "validation", "test")

_KEPT = 8 << 30  # bytes of prepared images in the cache; the oldest go first
_ROWS = 1024  # images at a time, where all are gone through


@dataclass(frozen=True)
class Prepared:
    """Images as they are prepared, and their classes.

    Attributes:
        images: pixels, NHWC: red, green and blue, or one channel where all images are grey.
        labels: numbers of the classes.
        digest: hash over both.
        broken: how many images could not be read and are left out.
        first_broken: what is wrong with the first of them; empty without any.
    """

    images: Pixels
    labels: NDArray[np.int64]
    digest: str
    broken: int = 0
    first_broken: str = ""


@dataclass(frozen=True)
class Examples:
    """Labelled images for a model.

    Attributes:
        prepared: images by where they come from.
        places: for each part where its images come from, and which of these it has.
        preprocessing: how the images were prepared.
        classes: classes of the model.
        fingerprint: hash over the pixels, their classes, the parts and the preprocessing.
        origin: where the classes come from, in words.
    """

    prepared: Mapping[str, Prepared]
    places: Mapping[PartName, tuple[str, NDArray[np.int64]]]
    preprocessing: Preprocessing
    classes: Classes
    fingerprint: str
    origin: str

    def count(self, part: PartName) -> int:
        """Return how many images a part has."""
        return len(self.places[part][1]) if part in self.places else 0

    def labels(self, part: PartName) -> NDArray[np.int64]:
        """Return the classes of a part's images."""
        name, indices = self._place(part)
        return self.prepared[name].labels[indices]

    def batch(
        self,
        part: PartName,
        chosen: NDArray[np.int64] | slice,
        augment: tuple[str, ...] = (),
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.float32]:
        """Return images of a part as a model takes them, channels last.

        Args:
            part: name of the part.
            chosen: places in the part.
            augment: names of augmentations; they take random numbers of `rng`.
            rng: random numbers.

        Raises:
            UsageError: there is no such part.
        """
        name, indices = self._place(part)
        pixels = self.prepared[name].images[indices[chosen]]
        if rng is not None:
            pixels = augmented(augment, rng, pixels)
        # Channel by channel: a table of 256 numbers is as exact as the arithmetic, and faster.
        x = np.empty((*pixels.shape[:3], len(self._tables)), np.float32)
        for channel, table in enumerate(self._tables):
            np.take(table, pixels[..., min(channel, pixels.shape[3] - 1)], out=x[..., channel])
        return x[..., ::-1] if self.preprocessing.bgr else x

    def inputs(self, part: PartName, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return images of a part in the layout of the model's input.

        Raises:
            UsageError: there is no such part.
        """
        x = self.batch(part, chosen)
        return np.ascontiguousarray(
            x if self.preprocessing.channels_last else x.transpose(0, 3, 1, 2)
        )

    def evenly(self, part: PartName, most: int | None) -> NDArray[np.int64]:
        """Return places in a part, evenly from all of it: at most so many, or all for None."""
        count = self.count(part)
        taken = count if most is None else min(most, count)
        return np.linspace(0, count - 1, taken).astype(np.int64)

    def _place(self, part: PartName) -> tuple[str, NDArray[np.int64]]:
        if part not in self.places:
            raise UsageError(
                f"there are no {part} images: these have {', '.join(self.places)}; give some, or "
                "have a share of the training images taken"
            )
        return self.places[part]

    @cached_property
    def _tables(self) -> list[NDArray[np.float32]]:
        """Return what each value of a pixel becomes, for red, green and blue."""
        values, prepared = np.arange(256, dtype=np.float32), self.preprocessing
        to_one = prepared.scale == TO_ONE
        scaled = values / np.float32(255) if to_one else values * np.float32(prepared.scale)
        rows = zip(prepared.mean, prepared.std, strict=True)
        return [(scaled - np.float32(mean)) / np.float32(std) for mean, std in rows]


def open_examples(
    source: Path,
    model: onnx.ModelProto,
    *,
    labels: Path | None = None,
    validation: float | Path = 0.1,
    test: float | Path = 0.0,
    seed: int = 0,
    limit: int | None = None,
) -> Examples:
    """Find labelled images, prepare them as a model says, and part them.

    Args:
        source: what `mbv3c.training.given.given_images` reads.
        model: a classifier of images, whose metadata or first operators say how images are
            prepared. Images in files of arrays are taken whole, unless the metadata say otherwise.
        labels: CSV file with the classes of a folder's images.
        validation: share of each class of the training images to validate with, or another
            source; unused where `source` has a part for that.
        test: the same for a part to test with.
        seed: seed of the parts, and of `limit`.
        limit: number of training images to take, before they are parted; None for all.

    Raises:
        UsageError: there are no such images, their classes are not those of the model, the model
            is no classifier, or a part would be empty.
        ModelError: the model's metadata are damaged.
        BundleError: the prepared images cannot be written.
    """
    classes = classes_in(model)
    own = classes_of(source, labels)
    _check_classes(source, own, classes)
    given = dict(given_images(source, classes, labels))
    for name, value in (("validation", validation), ("test", test)):
        if isinstance(value, Path):
            given[name] = next(iter(given_images(value, classes).values()))
    steps = _steps(model, whole=given["train"].whole)
    chosen = _limited(given["train"].labels, limit, seed)
    prepared = {
        name: _provided(part, steps, chosen if name == "train" else None)
        for name, part in given.items()
    }
    shares = {
        name: value
        for name, value in (("validation", validation), ("test", test))
        if name not in given and not isinstance(value, Path)
    }
    places = _parted(prepared, shares, seed)
    names = classes.names or (own.names if own.count == classes.count else None)
    return Examples(
        prepared,
        places,
        steps,
        Classes(classes.count, names),
        _fingerprint(prepared, places, steps),
        given["train"].origin,
    )


def _steps(model: onnx.ModelProto, *, whole: bool) -> Preprocessing:
    steps = preprocessing(model, input_shape_of(model))
    return replace(steps, shown=1.0) if whole and SHOWN not in metadata_of(model) else steps


def _check_classes(source: Path, own: Classes, classes: Classes) -> None:
    """Refuse images whose classes a model cannot have."""
    if (
        own.names is not None
        and classes.names is not None
        and set(own.names) <= set(classes.names)
    ):
        return
    if classes.count < 2 or (own.names is not None and own.count < 2):
        raise UsageError(
            f"a classifier needs two classes or more, and there is one; if the images of {source} "
            "are in folders, name the folder whose folders are the classes"
        )
    if own.count > classes.count or (own.names is not None and own.count != classes.count):
        raise UsageError(
            f"{source} has {own.count} classes, and the model {classes.count}: make one with "
            f"`mbv3c build --classes {own.count}`, or have its last layer replaced by "
            "`mbv3c train --new-head`"
        )


def _limited(labels: NDArray[np.int64], limit: int | None, seed: int) -> NDArray[np.int64] | None:
    """Return the places of a sample of images, in their order; None for all images."""
    if limit is None or limit >= len(labels):
        return None
    if limit < 2:
        raise UsageError(f"--limit {limit} is too few; take 2 or more")
    rng = np.random.default_rng([seed, 1])
    return np.sort(rng.choice(len(labels), limit, replace=False))


def _parted(
    prepared: Mapping[str, Prepared], shares: Mapping[str, float], seed: int
) -> dict[PartName, tuple[str, NDArray[np.int64]]]:
    """Take shares of each class from the training images, and leave the rest to train with."""
    for name, share in shares.items():
        if not 0 <= share <= 0.9:
            raise UsageError(f"--{name} {share:g} is no share from 0 to 0.9 of the images")
    labels = prepared["train"].labels
    taken: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ("train", *shares)}
    for number in np.unique(labels):
        places = np.flatnonzero(labels == number)
        order = np.random.default_rng([seed, 2, int(number)]).permutation(places)
        begin = 0
        for name, share in shares.items():
            count = round(share * len(order))
            taken[name].append(order[begin : begin + count])
            begin += count
        taken["train"].append(order[begin:])
    parted = {name: np.sort(np.concatenate(parts)) for name, parts in taken.items()}
    places_by_part: dict[PartName, tuple[str, NDArray[np.int64]]] = {}
    for part in PARTS:
        if part in parted:
            places_by_part[part] = ("train", parted[part])
        elif part in prepared:
            places_by_part[part] = (part, np.arange(len(prepared[part].labels)))
        if part in places_by_part and not len(places_by_part[part][1]):
            if part == "test":
                del places_by_part[part]
                continue
            raise UsageError(
                f"no images are left for {part}: of each class there must be more, or another "
                "share of them must be taken"
            )
    return places_by_part


def _fingerprint(
    prepared: Mapping[str, Prepared],
    places: Mapping[PartName, tuple[str, NDArray[np.int64]]],
    steps: Preprocessing,
) -> str:
    digest = hashlib.sha256(json.dumps(steps.to_json(), sort_keys=True).encode())
    for part, (name, indices) in sorted(places.items()):
        digest.update(f"{part} {prepared[name].digest}".encode())
        digest.update(indices.tobytes())
    return digest.hexdigest()


def _provided(given: Given, steps: Preprocessing, chosen: NDArray[np.int64] | None) -> Prepared:
    """Return prepared images from the cache, or prepare them."""
    indices = np.arange(len(given.labels)) if chosen is None else chosen
    digest = hashlib.sha256(given.fingerprint.encode())
    digest.update(json.dumps(steps.to_json(), sort_keys=True).encode())
    digest.update(given.labels.tobytes())
    digest.update(indices.tobytes())
    root = cache_root() / "examples"
    place = root / digest_of(digest.digest())
    if (found := _opened(place)) is not None:
        return found
    with only_one(root, lambda _: None):
        if (found := _opened(place)) is None:
            with new_folder(place, force=True) as folder, without_warnings():
                _prepare(folder, given, steps, indices)
            _drop_oldest(root, place)
            found = _opened(place)
    assert found is not None, "it was just written"
    return found


def _opened(place: Path) -> Prepared | None:
    """Open what was prepared; None if it is not there, or damaged."""
    try:
        about = parse_json((place / _ABOUT).read_bytes())
        images, labels = map_array(place / "images.npy"), map_array(place / "labels.npy")
        broken, first = about["broken"], about["first_broken"]
        return Prepared(images, np.asarray(labels), about["digest"], broken, first)
    except (OSError, Refused, KeyError, TypeError):
        return None


_ABOUT = "about.json"


def _prepare(folder: Path, given: Given, steps: Preprocessing, indices: NDArray[np.int64]) -> None:
    """Write images, prepared, their classes, and what is to be said of them.

    Raises:
        UsageError: no image can be read.
    """
    path = folder / "colours.npy"
    shape = (len(indices), steps.height, steps.width, 3)
    colours = _new_map(path, shape)
    kept: list[int] = []
    grey, broken, first = True, 0, ""
    for index, pixels in zip(indices, given.read(steps, indices.tolist()), strict=True):
        if isinstance(pixels, ImageError):
            broken, first = broken + 1, first or str(pixels)
            continue
        colours[len(kept)] = pixels
        grey = grey and bool((pixels == pixels[..., :1]).all())
        kept.append(index)
    if not kept:
        raise UsageError(f"none of the images can be read; the first: {first}")
    labels = given.labels[kept]
    np.save(folder / "labels.npy", labels)
    channels = 1 if grey else 3
    final = _new_map(folder / "images.npy", (len(kept), *shape[1:3], channels))
    digest = hashlib.sha256(labels.tobytes())
    for start in range(0, len(kept), _ROWS):
        rows = slice(start, min(start + _ROWS, len(kept)))
        final[rows] = colours[rows, ..., :channels]
        digest.update(np.ascontiguousarray(final[rows]).data)
    final.flush()
    del final, colours
    path.unlink()
    about = {"digest": digest.hexdigest(), "broken": broken, "first_broken": first}
    (folder / _ABOUT).write_text(json.dumps(about))


def _new_map(path: Path, shape: tuple[int, ...]) -> Any:
    """Map a new file of pixels, of which the disk has all bytes set aside.

    Otherwise a disk that gets full would end the process, by SIGBUS.

    Raises:
        OSError: there is no space for it.
    """
    array: Any = open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _drop_oldest(root: Path, kept: Path) -> None:
    """Remove what was prepared longest ago, until the rest is small enough; open maps stay."""
    folders = [path for path in root.iterdir() if path.is_dir() and path != kept]
    sizes = {
        path: sum(file.stat().st_size for file in path.glob("*.npy")) for path in (*folders, kept)
    }
    total = sum(sizes.values())
    for path in sorted(folders, key=lambda path: path.stat().st_mtime):
        if total <= _KEPT:
            return
        total -= sizes[path]
        shutil.rmtree(path, ignore_errors=True)
