"""What takes long to make, kept in the user's cache by a name that says what it was made from.

An entry is a file: the sha256 of its name and content, then the content. It is written beside its
place and renamed, so another process sees it whole or not at all; two that make one entry at once
both write equal bytes. What does not fit its sha256 counts as missing, also an entry under another
one's name. So does everything in a folder that is another user's, or that others may write to.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mbv3c.trust import is_own

_DIGEST = hashlib.sha256().digest_size
_PARTIAL = ".partial"
_KEPT_SHARE = 0.75  # of the limit, when it is passed: else every further entry would remove one


@dataclass(frozen=True)
class Kept:
    """A folder of entries.

    Attributes:
        folder: the folder; it is made with the first entry.
        most_bytes: how large all entries together may become. Those that were used longest ago go
            first.
    """

    folder: Path
    most_bytes: int

    def read(self, name: str) -> bytes | None:
        """Return the content of an entry; None where there is none, or it is damaged."""
        place = self.folder / name
        try:
            if not is_own(self.folder):
                return None
            data = place.read_bytes()
        except OSError:
            return None
        digest, content = data[:_DIGEST], data[_DIGEST:]
        if _digest_of(name, content) != digest:
            return None
        with suppress(OSError):
            os.utime(place)  # used just now
        return content

    def write(self, name: str, content: bytes) -> None:
        """Keep an entry, if the folder can be written; what cannot be kept is made again."""
        partial = self.folder / f"{name}-{os.getpid()}{_PARTIAL}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_own(self.folder):
                return
            try:
                partial.write_bytes(_digest_of(name, content) + content)
                partial.replace(self.folder / name)
            finally:
                partial.unlink(missing_ok=True)
        except OSError:
            return

    def shrink(self) -> None:
        """Remove what was used longest ago, and what killed processes left, if it is too much."""
        entries = []
        with suppress(OSError), os.scandir(self.folder) as files:
            for file in files:
                with suppress(OSError):  # another process has just removed or renamed it
                    if not file.is_dir(follow_symlinks=False):
                        entries.append((file.stat(follow_symlinks=False), Path(file.path)))
        total = sum(state.st_size for state, _ in entries)
        if total <= self.most_bytes:
            return
        for state, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
            if total <= self.most_bytes * _KEPT_SHARE:
                return
            with suppress(OSError):
                path.unlink()
                total -= state.st_size


def _digest_of(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()
