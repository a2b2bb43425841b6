"""The folder that keeps the input files of jobs and their results; several processes share it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mbv3c.atomic import new_file, new_folder
from mbv3c.errors import BundleError, UsageError
from mbv3c.jobs.job import Job
from mbv3c.records import open_locked
from mbv3c.scratch import scratch_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")
DOCUMENT, FILES = "result.json", "files"
# What the files of a result are: their sha256, or of older versions their sizes alone.
_DIGESTS, _SIZES = "sha256.json", "sizes.json"

# Of files below a folder, by their paths in it: size, and time of the last change in nanoseconds.
_State = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes:
        document: what the function returned, in JSON.
        files: paths of the files that it left, by their paths within its folder.
    """

    document: Mapping[str, Any]
    files: Mapping[str, Path]


class Store:
    """Input files by their content and results by the names of their jobs, in a folder.

    Everything is written whole. A file that is there is never changed; what it holds is compared
    with its sha256 before it is used the first time, and after whatever has touched it.

    Args:
        folder: where it is; it is made where there is none.

    Raises:
        UsageError: there is no such folder, and none can be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._sound: dict[Path, _State] = {}  # what was found to be as it was written
        try:
            for each in (self._contents, self._results, self._claims, self._attempts):
                each.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot keep results in {folder}: {error.strerror}; name another folder with "
                "--store"
            ) from error

    @property
    def _contents(self) -> Path:
        return self.folder / "contents"

    @property
    def _results(self) -> Path:
        return self.folder / "results"

    @property
    def _claims(self) -> Path:
        return self.folder / "claims"

    @property
    def _attempts(self) -> Path:
        return self.folder / "attempts"

    # ---- input files ----

    def put(self, given: Path | bytes) -> str:
        """Keep a file, and return the sha256 by which it is known.

        Raises:
            UsageError: the file cannot be read.
            BundleError: it cannot be written here, or the disk is full.
        """
        digest = _digest(given)
        place = self._contents / digest
        if not (place.exists() and self._is_sound(place, lambda: _digest(place) == digest)):
            with new_file(place, force=True) as temporary:
                if isinstance(given, bytes):
                    temporary.write_bytes(given)
                else:
                    shutil.copyfile(given, temporary)
                if _digest(temporary) != digest:
                    raise BundleError(f"{given!s} was changed while it was read; try again")
        return digest

    def get(self, digest: str) -> Path:
        """Return where a file is kept.

        Raises:
            BundleError: it is not here, or is damaged.
        """
        if not self.has(digest):
            raise BundleError(
                f"{self.folder} holds no file of sha256 {digest}; name the folder of results that "
                "the job was made with"
            )
        place = self._contents / digest
        if not self._is_sound(place, lambda: _digest(place) == digest):
            raise BundleError(f"{place} is damaged; call the command again, which writes it anew")
        return place

    def has(self, digest: str) -> bool:
        """Say whether a file is kept here."""
        return _SHA256.fullmatch(digest) is not None and (self._contents / digest).is_file()

    # ---- results ----

    def result(self, job: Job | str) -> Result | None:
        """Return the result of a job, or of the job with a name; None while there is none.

        Raises:
            BundleError: it is damaged.
        """
        folder = self._results / (job if isinstance(job, str) else job.name)
        if not (folder / DOCUMENT).exists():
            return None
        damaged = BundleError(f"{folder} is damaged; remove it, and it is computed again")
        try:
            sound = self._is_sound(folder, lambda: _is_whole(folder))
            document = json.loads((folder / DOCUMENT).read_bytes())
        except (OSError, ValueError) as error:
            raise damaged from error
        if not sound or not isinstance(document, dict):
            raise damaged
        files = folder / FILES
        return Result(document, {name: files / name for name in _state(files)})

    def _is_sound(self, place: Path, check: Callable[[], bool]) -> bool:
        """Say whether a file or a folder passes a check, of which a success is remembered."""
        state = _state(place)
        if self._sound.get(place) == state:
            return True
        if not check():
            return False
        self._sound[place] = state
        return True

    def keep(self, name: str, document: Mapping[str, Any], files: Mapping[str, Path]) -> Result:
        """Write the result of the job with a name, whole, unless it is here already.

        Raises:
            BundleError: it cannot be written, or the disk is full.
        """
        known = self.result(name)
        if known is not None:
            return known
        with new_folder(self._results / name, force=True) as folder:
            (folder / FILES).mkdir()
            for path, source in files.items():
                place = folder / FILES / path
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, place)
            _write_json(folder / DOCUMENT, dict(document))
            _write_json(folder / _DIGESTS, _digests(folder))
        kept = self.result(name)
        assert kept is not None
        return kept

    def keep_bytes(
        self, name: str, document: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> Result:
        """Write a result that came from another machine, as `keep` does.

        Raises:
            BundleError: it cannot be written, or names a file outside of its folder.
        """
        try:
            with scratch_folder("result") as folder:
                paths: dict[str, Path] = {}
                for path, content in files.items():
                    place = folder / path
                    if not place.resolve().is_relative_to(folder.resolve()):
                        raise BundleError(
                            f"the result of {name} names a file outside of its folder"
                        )
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(content)
                    paths[path] = place
                return self.keep(name, document, paths)
        except OSError as error:
            raise BundleError(
                f"cannot keep the result of {name}: {error.strerror}; free some space, or set "
                "TMPDIR"
            ) from error

    # ---- work ----

    def claim(self, name: str) -> IO[bytes] | None:
        """Take the job with a name for this process and those that inherit the file.

        The kernel gives the claim back when the last of them has ended, however it did.

        Returns:
            The file to close afterwards; None while another process has the job.
        """
        try:
            return open_locked(self._claims / name, patience=0)
        except BlockingIOError:
            return None

    def under_way(self, name: str) -> bool:
        """Say whether a process has claimed the job with a name."""
        if not (self._claims / name).exists():
            return False
        claim = self.claim(name)
        if claim is not None:
            claim.close()
        return claim is None

    def attempt(self, name: str) -> Path:
        """Return the folder in which the job with a name is done; it stays if that fails."""
        folder = self._attempts / name
        folder.mkdir(exist_ok=True)
        return folder

    def finish(self, name: str) -> None:
        """Remove what doing the job with a name has left beside its result, which is here.

        Who gets the claim afterwards, on this file or on a new one, finds the result.
        """
        shutil.rmtree(self._attempts / name, ignore_errors=True)
        (self._claims / name).unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")


def _is_whole(folder: Path) -> bool:
    """Say whether the files of a result are those that were written.

    Raises:
        OSError: nothing says what was written, or a file cannot be read.
        ValueError: what says it is damaged.
    """
    if (folder / _DIGESTS).exists():
        known, found = folder / _DIGESTS, _digests(folder)
        return bool(json.loads(known.read_bytes()) == found)
    sizes = {name: size for name, (size, _) in _state(folder / FILES).items()}
    return bool(json.loads((folder / _SIZES).read_bytes()) == sizes)


def _digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of the files of a result, by their paths in its folder."""
    return {name: _digest(folder / name) for name in _state(folder) if name != _DIGESTS}


def _state(place: Path) -> _State:
    """Return what the files below a folder look like, or a file alone."""
    paths = [place, *sorted(place.rglob("*"))]
    found = {path: path.stat() for path in paths if path.is_file()}
    return {
        path.relative_to(place).as_posix(): (status.st_size, status.st_mtime_ns)
        for path, status in found.items()
    }


def _digest(given: Path | bytes) -> str:
    if isinstance(given, bytes):
        return hashlib.sha256(given).hexdigest()
    try:
        with given.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {error.strerror}") from error
