"""The images of the demonstration: Debian's package of Fashion-MNIST, fetched without root.

60,000 and 10,000 grey images of 28x28 pixels in ten classes: H. Xiao, K. Rasul, R. Vollgraf,
"Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
arXiv:1708.07747; MIT licence.
"""

import shutil
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    FETCH_COMMAND,
    cache_root,
    digest_of,
    provide_once,
    require_apt,
    unpack_packages,
)
from mbv3c.progress import Progress
from mbv3c.training.array_files import is_idx

DEMO_FETCH = f"{FETCH_COMMAND}=demo"
_PACKAGE = "dataset-fashion-mnist"
_SHARED = Path("usr") / "share" / "datasets" / "fashion-mnist"


def demo_folder() -> Path | None:
    """Return the folder of the images, or None when they are not fetched."""
    folder = _folder()
    return folder if is_idx(folder) else None


def fetch_demo(progress: Progress) -> Path:
    """Fetch the images if they are not there yet.

    Needs apt's programs and its network, 31 MB to download and on disk; no root.

    Raises:
        ToolError: this is no Debian or Ubuntu, or the download failed.
    """
    folder = _folder()
    if not folder.is_dir():
        require_apt(
            "the images of the demonstration",
            f"get the four files of Fashion-MNIST elsewhere, and name their folder with --data: "
            f"https://packages.debian.org/{_PACKAGE} says where they come from",
        )
        provide_once(folder, lambda place: _fill(place, progress), progress)
    return folder


def _folder() -> Path:
    return cache_root() / f"fashion-mnist-{digest_of(_PACKAGE.encode())}"


def _fill(place: Path, progress: Progress) -> None:
    everything = place / "everything"
    everything.mkdir()
    unpack_packages(everything, "amd64", (_PACKAGE,), progress, size="31 MB", keep=("datasets",))
    for path in (everything / _SHARED).glob("*-ubyte*"):
        path.rename(place / path.name)
    shutil.rmtree(everything)
    if not is_idx(place):
        raise ToolError(f"the Debian package {_PACKAGE} brought no images; report its version")
