"""Which images a bundle is measured on, and which class each of them has.

The list is read from the folder whenever it is needed: at no time more than the names of one
folder, and of those that it is in, are in memory.
"""

import csv
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import UsageError

NO_LABELS = Path("none")  # in place of a file of labels

_SHOWN = 5


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        file: its path, as the folder or the file of labels has it.
        path: where it is.
        label: the index of its class; None if that is not known.
    """

    file: str
    path: Path
    label: int | None


@dataclass(frozen=True)
class ImageSet:
    """Images to measure on.

    Attributes:
        folder: where they are.
        labels: where their classes come from, in words.
        labelled: whether their classes are known.
        total: how many there are.
        chosen: how many of them to take.
        seed: by which they are chosen; None if all are taken.
        fingerprint: a hash over names, classes, sizes and times of all of them.
        read: reads the chosen ones, in an order that never changes.
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
    """What is known of a model's classes.

    Attributes:
        count: how many there are.
        names: their names, by index; None if the model does not say.
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

    Folders in it are their classes, unless `labels` is a CSV file with the columns `file` and
    `label`, or `NO_LABELS`. Hidden files are left out.

    Args:
        folder: where to look, in all folders below, too.
        classes: of the model.
        suffixes: how the names of images end, in lower case.
        labels: where the classes are.
        limit: how many images to take; a sample of all.
        seed: of that sample.

    Raises:
        UsageError: the folder or the file cannot be read or holds no images, or their classes are
            not those of the model.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is too few; take 1 or more")
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; name one with images")
    every, said, labelled = _every(folder, classes, tuple(suffixes), labels)
    digest, total = hashlib.sha256(), 0
    for image in every():
        digest.update(_identity(image))
        total += 1
    if not total:
        raise UsageError(
            f"{folder} holds no images ({', '.join(suffixes)}); put some there, or name another"
        )
    if limit is None or limit >= total:
        return ImageSet(folder, said, labelled, total, total, None, digest.hexdigest(), every)
    chosen = frozenset(random.Random(seed).sample(range(total), limit))  # noqa: S311

    def read() -> Iterator[Image]:
        return (image for at, image in enumerate(every()) if at in chosen)

    return ImageSet(folder, said, labelled, total, limit, seed, digest.hexdigest(), read)


def _identity(image: Image) -> bytes:
    try:
        status = image.path.stat()
        known = f"{status.st_size}\0{status.st_mtime_ns}"
    except OSError:  # it is counted as broken when it is read
        known = "missing"
    return os.fsencode(f"{image.file}\0{image.label}\0{known}\n")


def _every(
    folder: Path, classes: Classes, suffixes: tuple[str, ...], labels: Path | None
) -> tuple[Callable[[], Iterator[Image]], str, bool]:
    """Return what reads all images, where their classes come from, and whether they have any."""

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
    indices, said = class_indices(folders, classes, f"the folders of {folder}")

    def labelled() -> Iterator[Image]:
        for name in folders:
            for file in _files(folder / name, suffixes):
                yield Image(f"{name}/{file}", folder / name / file, indices[name])

    return labelled, f"the folders, {said}", True


def _top(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the names of the folders in a folder, and of an image beside them."""
    names, folders = _listing(folder, suffixes)
    loose = next((name for name in names if name not in folders), "")
    return sorted(folders), loose


def _files(
    folder: Path, suffixes: tuple[str, ...], within: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Yield the images in a folder and below, each folder's in the order of their names."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in within:  # a link that leads back
        return
    names, folders = _listing(folder, suffixes)
    for name in names:
        if name not in folders:
            yield name
            continue
        for file in _files(folder / name, suffixes, (*within, here)):
            yield f"{name}/{file}"


def _listing(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], set[str]]:
    """Return the names of images and folders in a folder, sorted, and which are folders.

    What is called like an image is taken for one, and found broken if it is a folder.
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
    """Return the index of the class that each name stands for, and how that was told.

    Numbers below the count are indices; else names may be those in the model's metadata; else, if
    there are as many as classes, they stand for them in the order of their names.

    Raises:
        UsageError: none of that holds; the message says what would.
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
        said = f"in the order of their names as the model's {count} classes"
        return {name: index for index, name in enumerate(ordered)}, said
    raise UsageError(_impossible(names, classes, what))


def _impossible(names: Sequence[str], classes: Classes, what: str) -> str:
    """Say why names are no classes, and what would be some."""
    count, known = classes.count, classes.names
    strange = sorted(set(names) - set(known)) if known is not None else sorted(names)
    shown = ", ".join(strange[:_SHOWN]) + (", ..." if len(strange) > _SHOWN else "")
    ways = [
        f"there may be exactly {count}, which in the order of their names are the classes",
        f"they may be indices from 0 to {count - 1}",
        "they may be names that the model's metadata `class_names` have"
        + (" (this model has none)" if known is None else ""),
        "--labels CSV (columns file,label) may say the class of every image",
        "--labels none compares without classes",
    ]
    return (
        f"{what} ({len(names)}: {shown}) do not say which of the model's {count} classes they "
        f"are: {'; or '.join(ways)}"
    )


def _from_csv(
    folder: Path, classes: Classes, labels: Path
) -> tuple[Callable[[], Iterator[Image]], str, bool]:
    """Read a file of labels once for their names, and again whenever the images are wanted."""
    names = {label for _, label in _rows(labels)}
    if not names:
        raise UsageError(f"{labels} lists no images; write one per line, as file,label")
    indices, said = class_indices(sorted(names), classes, f"the labels in {labels}")

    def every() -> Iterator[Image]:
        for file, label in _rows(labels):
            yield Image(file, folder / file, indices[label])

    return every, f"{labels}, {said}", True


def _rows(labels: Path) -> Iterator[tuple[str, str]]:
    """Yield the file and the label of each line."""
    try:
        with labels.open(newline="", encoding="utf-8-sig") as lines:
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
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"cannot read the labels {labels}: {error}; it must be CSV in UTF-8"
        ) from error
