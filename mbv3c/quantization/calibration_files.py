"""Which files a model is calibrated on: those of a folder, or a sample across its folders."""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from mbv3c.errors import UsageError
from mbv3c.quantization.files_below import files_below
from mbv3c.quantization.images import IMAGES

ARRAYS = (".npy", ".npz")
MOST_OF_CLASSES = 256  # files of a folder whose folders are classes, where nobody says how many

_SUFFIXES = (*ARRAYS, *IMAGES)


@dataclass(frozen=True)
class Sampling:
    """How many files are taken.

    Attributes:
        limit: number of files; None for all of a folder without folders, else for
            `MOST_OF_CLASSES` at most.
        seed: seed of the sample.

    Raises:
        UsageError: a value makes no sense.
    """

    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(
                f"--calibration-limit {self.limit} leaves nothing to calibrate on; take 1 or more"
            )
        if self.seed < 0:
            raise UsageError(f"--calibration-seed must not be negative, got {self.seed}")


WITHOUT_LIMIT = Sampling()
EVERY = Sampling(sys.maxsize)


@dataclass(frozen=True)
class Found:
    """The files to calibrate on.

    Attributes:
        files: the files, in the order in which they are taken.
        total: number of files that there are.
        folders: number of folders in the folder that have files; 0 if none has.
        seed: seed of the sample; None if all files are taken.
    """

    files: tuple[Path, ...]
    total: int
    folders: int
    seed: int | None

    def source(self, count: int, folder: Path) -> str:
        """Say where so many inputs come from."""
        of = "" if self.seed is None else f" (of {self.total}, seed {self.seed})"
        below = f", evenly from its {self.folders} folders" if self.folders > 1 else ""
        return f"{count} inputs in {len(self.files)} files{of} of {folder}{below}"


def find_files(folder: Path, sampling: Sampling = WITHOUT_LIMIT) -> Found:
    """Return the images and arrays of a folder and of the folders in it, or a single one.

    Without folders in it they come in the order of their names. Else each of these folders is
    shuffled by the seed, and they give a file each in turn, so that any first few files, and those
    that are held out, are of as many folders as there can be.

    Raises:
        UsageError: there is no such folder, or nothing in it that can be read.
    """
    known = folder.suffix.lower() in _SUFFIXES
    if folder.is_file() and known:
        return Found((folder,), 1, 0, None)
    if folder.is_file():
        raise UsageError(f"{folder} is none of {', '.join(_SUFFIXES)}; name an image or arrays")
    if not folder.is_dir():
        kind = "file" if known else "folder"
        raise UsageError(f"no such {kind}: {folder}; name one with images, .npy or .npz files")
    groups: dict[str, list[str]] = {}
    for name in files_below(folder, _SUFFIXES):
        top, below, _ = name.partition("/")
        groups.setdefault(top if below else "", []).append(name)
    if not groups:
        raise UsageError(
            f"{folder} holds none of {', '.join(_SUFFIXES)}: put images or arrays there, or name "
            "another folder"
        )
    total, folders = sum(map(len, groups.values())), len(groups.keys() - {""})
    limit = sampling.limit or (MOST_OF_CLASSES if folders else total)
    if limit >= total and not folders:
        names, seed = groups[""], None
    else:
        names = list(_in_turn(groups, sampling.seed))[:limit]
        seed = sampling.seed if limit < total else None
    return Found(tuple(folder / name for name in names), total, folders, seed)


def _in_turn(groups: dict[str, list[str]], seed: int) -> Iterator[str]:
    """Yield the files of all groups, one of each in turn; both orders are drawn."""
    tops = sorted(groups)
    random.Random(seed).shuffle(tops)  # noqa: S311
    drawn = []
    for top in tops:
        names = list(groups[top])
        random.Random(f"{seed}/{top}").shuffle(names)  # noqa: S311
        drawn.append(names)
    for row in zip_longest(*drawn):
        yield from (name for name in row if name is not None)
