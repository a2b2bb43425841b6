"""Which images a bundle is measured on, and which class each image has.

The list is read from the folder whenever it is needed. Memory never holds more than the names in
one folder and in the folders around it.
"""

import csv
import hashlib
import io
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.door.files import Refused, plain_file
from mbv3c.errors import UsageError

_MOST_LABELS = 1 << 30  # bytes
_MOST_AGAIN, _DEEPEST = 1_000, 100  # folders that links lead to again; folders in each other
NO_LABELS = Path("none")  # in place of a file of labels

_SHOWN = 5


@dataclass(frozen=True)
class Image:
    """An image to measure on.

    Attributes:
        file: path inside the folder, or as the file of labels has it.
        path: path to open.
        label: index of the image's class; None if unknown.
    """

    file: str
    path: Path
    label: int | None


@dataclass(frozen=True)
class ImageSet:
    """Images to measure on.

    Attributes:
        folder: folder of the images.
        labels: origin of the images' classes, in words.
        labelled: whether the images' classes are known.
        total: number of images in the folder.
        chosen: number of images to take.
        seed: seed of the choice; None if all images are taken.
        fingerprint: hash over names, classes, sizes and times of all images.
        read: function that reads the chosen images, in an order that never changes.
    """

    folder: Path
    labels: str
    labelled: bool
    total: int
    chosen: int
    seed: int | None
    fingerprint: str
    read: Callable[[], Iterator[Image]]


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Attributes:
        count: number of classes.
        names: names of the classes, by index; None if the model has none.
    """

    count: int
    names: tuple[str, ...] | None = None


def open_images(
    folder: Path,
    classes: Classes,
    suffixes: Sequence[str],
    *,
    labels: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Find the images of a folder.

    The folders in it are the classes, unless `labels` is a CSV file with the columns `file` and
    `label`, or `NO_LABELS`. Hidden files are left out.

    Args:
        folder: folder of the images, searched with all folders below.
        classes: classes of the model.
        suffixes: endings of the images' names, in lower case.
        labels: file of labels, or `NO_LABELS`; None if folders are classes.
        limit: size of the sample to take; None for all images.
        seed: seed of the sample.

    Raises:
        UsageError: the folder or the file cannot be read or holds no images, or the images'
            classes are not those of the model.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is too few; take 1 or more")
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; name one with images")
    read_all, origin, labelled = _all_images(folder, classes, tuple(suffixes), labels)
    digest, total = hashlib.sha256(), 0
    for image in read_all():
        digest.update(_identity(image))
        total += 1
    if not total:
        raise UsageError(
            f"{folder} holds no images ({', '.join(suffixes)}); put some there, or name another"
        )
    if limit is None or limit >= total:
        return ImageSet(folder, origin, labelled, total, total, None, digest.hexdigest(), read_all)
    chosen = frozenset(random.Random(seed).sample(range(total), limit))  # noqa: S311

    def read() -> Iterator[Image]:
        return (image for index, image in enumerate(read_all()) if index in chosen)

    return ImageSet(folder, origin, labelled, total, limit, seed, digest.hexdigest(), read)


def _identity(image: Image) -> bytes:
    try:
        status = image.path.stat()
        state = f"{status.st_size}\0{status.st_mtime_ns}"
    except OSError:  # it is counted as broken when it is read
        state = "missing"
    return os.fsencode(f"{image.file}\0{image.label}\0{state}\n")


def _all_images(
    folder: Path, classes: Classes, suffixes: tuple[str, ...], labels: Path | None
) -> tuple[Callable[[], Iterator[Image]], str, bool]:
    """Return a function that reads all images, and `labels` and `labelled` of `ImageSet`."""

    def unlabelled() -> Iterator[Image]:
        return (Image(file, folder / file, None) for file in _files(folder, suffixes))

    if labels == NO_LABELS:
        return unlabelled, "none, as --labels none says", False
    if labels is not None:
        return _from_csv(folder, classes, labels)
    folders, loose = _top(folder, suffixes)
    if not folders:
        return unlabelled, "none: there are no folders of classes, and no --labels", False
    if loose:
        raise UsageError(
            f"{folder} holds images ({loose}) beside folders ({folders[0]}): move the images into "
            "folders of their classes, or say what they are with --labels CSV, or --labels none"
        )
    indices, how = class_indices(folders, classes, f"the folders of {folder}")

    def labelled() -> Iterator[Image]:
        for name in folders:
            for file in _files(folder / name, suffixes):
                yield Image(f"{name}/{file}", folder / name / file, indices[name])

    return labelled, f"the folders, {how}", True


def _top(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the names of the folders in a folder, and the name of an image beside them, or ""."""
    names, folders = _listing(folder, suffixes)
    loose = next((name for name in names if name not in folders), "")
    return sorted(folders), loose


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the images in a folder and below it, in the order of the names in each folder."""
    yield from _Walk(folder, suffixes).files(folder, ())


class _Walk:
    """A walk through a folder, in which links may lead to a folder again, but not without end."""

    def __init__(self, top: Path, suffixes: tuple[str, ...]) -> None:
        self._top, self._suffixes = top, suffixes
        self._seen, self._again = set[tuple[int, int]](), 0

    def files(self, folder: Path, within: tuple[tuple[int, int], ...]) -> Iterator[str]:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in within:  # a link that leads back
            return
        if here in self._seen:
            self._again += 1
        self._seen.add(here)
        if self._again > _MOST_AGAIN or len(within) > _DEEPEST:
            raise UsageError(
                f"the folders in {self._top} link to each other, or are nested deeper than "
                f"{_DEEPEST}: more than {_MOST_AGAIN:,} are there again; name one without such "
                "links"
            )
        names, folders = _listing(folder, self._suffixes)
        for name in names:
            if name not in folders:
                yield name
                continue
            for file in self.files(folder / name, (*within, here)):
                yield f"{name}/{file}"


def _listing(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], set[str]]:
    """Return the names of images and folders in a folder, sorted, and which are folders.

    A folder whose name ends like an image's is taken for an image, and found broken.
    """
    names, folders = [], set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(suffixes):
                    names.append(entry.name)
                elif entry.is_dir():
                    names.append(entry.name)
                    folders.add(entry.name)
    except OSError as error:
        raise UsageError(
            f"cannot list the folder {folder}: {error.strerror}; see to its permissions"
        ) from error
    return sorted(names), folders


def class_indices(names: Sequence[str], classes: Classes, what: str) -> tuple[dict[str, int], str]:
    """Return the index of the class that each name stands for, and by which rule, in words.

    Numbers below the count are indices. Or else all names are in the model's metadata. Or else
    there are as many names as classes, in the order of the names.

    Raises:
        UsageError: no rule fits; the message lists all rules.
    """
    count, known = classes.count, classes.names
    numbers = {name: int(name) for name in names if name.isascii() and name.isdecimal()}
    all_numbers = len(numbers) == len(names)
    if all_numbers and len(set(numbers.values())) == len(names) and max(numbers.values()) < count:
        return numbers, f"whose names are the {count} classes' indices, from 0"
    if known is not None and set(names) <= set(known):
        return {name: known.index(name) for name in names}, "whose names the model's metadata have"
    ordered = sorted(names)
    same_order = not all_numbers or sorted(names, key=lambda name: numbers[name]) == ordered
    if len(names) == count and same_order:
        how = f"in the order of their names as the model's {count} classes"
        return {name: index for index, name in enumerate(ordered)}, how
    raise UsageError(_impossible(names, classes, what))


def _impossible(names: Sequence[str], classes: Classes, what: str) -> str:
    """Say why names are no classes, and how to name classes."""
    count, known = classes.count, classes.names
    strange = sorted(set(names) - set(known)) if known is not None else sorted(names)
    shown = ", ".join(strange[:_SHOWN]) + (", ..." if len(strange) > _SHOWN else "")
    rules = [
        f"there may be exactly {count}, which in the order of their names are the classes",
        f"they may be indices from 0 to {count - 1}",
        "they may be names that the model's metadata `class_names` have"
        + (" (this model has none)" if known is None else ""),
        "--labels CSV (columns file,label) may say the class of every image",
        "--labels none compares without classes",
    ]
    return (
        f"{what} ({len(names)}: {shown}) do not say which of the model's {count} classes they "
        f"are: {'; or '.join(rules)}"
    )


def _from_csv(
    folder: Path, classes: Classes, labels: Path
) -> tuple[Callable[[], Iterator[Image]], str, bool]:
    """Read a file of labels once for the names of classes, and again for the images each time."""
    indices, how = class_indices(labels_in(labels), classes, f"the labels in {labels}")

    def read_all() -> Iterator[Image]:
        return (Image(file, folder / file, indices[label]) for file, label in _rows(labels))

    return read_all, f"{labels}, {how}", True


def labels_in(labels: Path) -> list[str]:
    """Return the different labels in a file of labels, sorted.

    Raises:
        UsageError: the file cannot be read, or lists no images.
    """
    names = {label for _, label in _rows(labels)}
    if not names:
        raise UsageError(f"{labels} lists no images; write one per line, as file,label")
    return sorted(names)


def check_within(labels: Path) -> None:
    """Make sure that a file of labels names files of its folder of images only.

    Raises:
        UsageError: it does not, or cannot be read.
    """
    for file, _ in _rows(labels):
        path = Path(os.path.normpath(file))
        if path.is_absolute() or path.parts[0] == os.pardir:
            raise UsageError(
                f"{labels} names {file}, which is not within the folder of the images; jobs have "
                "that folder alone: move the image there, or name a folder that holds all"
            )


def _rows(labels: Path) -> Iterator[tuple[str, str]]:
    """Yield the file and the label of each line."""
    try:
        with (
            plain_file(labels, _MOST_LABELS) as content,
            io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as lines,
        ):
            rows = csv.DictReader(lines)
            missing = {"file", "label"} - {name.strip() for name in rows.fieldnames or ()}
            if missing:
                raise UsageError(
                    f"{labels} has no column {' and no column '.join(sorted(missing))}; its first "
                    "line must be file,label"
                )
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            for row in rows:
                file, label = ((row[key] or "").strip() for key in ("file", "label"))
                if not file or not label:
                    raise UsageError(
                        f"{labels}, line {rows.line_num}: a file and a label belong there, as in "
                        "cats/1.jpg,3"
                    )
                yield file, label
    except (OSError, Refused, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"cannot read the labels {labels}: {error}; it must be CSV in UTF-8"
        ) from error
