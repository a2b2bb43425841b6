"""Build the sdist, and the wheel from it: `python build_dist.py FOLDER`.

Both are made of the files that git knows, as they are on the disk, so that nothing else that lies
in a checkout gets into them.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)


def tracked() -> list[str]:
    """Return the files of the checkout, as paths in it."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise SystemExit(f"git says which files belong to mbv3c, and failed: {listed.stderr}")
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def built(hook: str, source: Path, place: Path) -> Path:
    """Have setuptools build one file, and put it at its place."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-c", BUILD, hook, scratch],
            cwd=source,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (made,) = Path(scratch).iterdir()
        return Path(shutil.move(made, place / made.name))


def main(folder: str) -> None:
    """Write both files into a folder, and print where they are."""
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        for name in tracked():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
        sdist = built("build_sdist", source, place)
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        unpacked = Path(scratch, sdist.name.removesuffix(".tar.gz"))
        wheel = built("build_wheel", unpacked, place)
    sys.stdout.write(f"{sdist}\n{wheel}\n")


if __name__ == "__main__":
    main(sys.argv[1])
