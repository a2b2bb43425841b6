"""The pictures of a folder."""

from pathlib import Path

from mbv3c.errors import UsageError
from mbv3c.quantization.files_below import files_below
from mbv3c.quantization.images import IMAGES


def pictures_in(folder: Path) -> list[str]:
    """Return the pictures in a folder and below it, in the order of their names.

    Raises:
        UsageError: there is none.
    """
    names = list(files_below(folder, IMAGES))
    if not names:
        raise UsageError(f"{folder} holds no images ({', '.join(IMAGES)}); name another folder")
    return names
