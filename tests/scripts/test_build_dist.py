"""What `make dist` builds is whole, and is all that is needed where it is installed."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.version import __version__
from scripts.build_dist import ROOT, tracked
from tests.onnx_text import graph

MODEL = "g (float[1, 8, 6, 5] x) => (float[1, 8, 6, 5] y) { y = Mul(x, k) }"
USE = """
import mbv3c
compiled = mbv3c.compile("model.onnx", "host_cpu", "bundle")
print(compiled.verdict.passed, mbv3c.__version__, mbv3c.__file__)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the sdist and the wheel."""
    place = tmp_path_factory.mktemp("dist")
    script = [sys.executable, str(ROOT / "scripts/build_dist.py"), str(place)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=300)
    sdist, wheel = map(Path, done.stdout.split())
    return sdist, wheel


def in_place(command: Sequence[object], folder: Path) -> str:
    """Run a command in an empty folder, without this checkout, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_have_every_file(dist: tuple[Path, Path]) -> None:
    sdist, wheel = dist
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    written = {"PKG-INFO", "setup.cfg"}
    assert {name for name in names if ".egg-info/" not in name} == {*tracked(), *written}
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in tracked() if name.startswith("mbv3c/")}
    page = f"mbv3c-{__version__}.data/data/share/man/man1/mbv3c.1"  # pip puts it into share/man
    assert {name for name in names if ".dist-info/" not in name} == {*package, page}


def test_the_version_is_the_same_everywhere(dist: tuple[Path, Path]) -> None:
    sdist, wheel = dist
    assert sdist.name == f"mbv3c-{__version__}.tar.gz"
    assert wheel.name == f"mbv3c-{__version__}-py3-none-any.whl"
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == __version__
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = re.findall(
        r"mbv3c-[0-9][^-]*-py3-none-any\.whl", "".join(p.read_text() for p in pages)
    )
    assert set(named) == {wheel.name}


def test_it_compiles_where_it_is_installed(dist: tuple[Path, Path], tmp_path: Path) -> None:
    """The packages that it needs are those of this environment."""
    _, wheel = dist
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    folder.mkdir()
    venv.create(environment)
    python = environment / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    in_place([*install, "--no-index", "--no-compile", wheel], folder)
    here = sysconfig.get_path("purelib")
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "needs.pth").write_text(f"{here}\n")
    onnx.save(graph(MODEL, k=np.array(3, np.float32)), folder / "model.onnx")
    passed, version, module = in_place([python, "-c", USE], folder).split()
    assert (passed, version) == ("True", __version__)
    assert Path(module).is_relative_to(site)
    assert __version__ in in_place([environment / "bin/mbv3c", "--version"], folder)
    assert (environment / "share/man/man1/mbv3c.1").is_file()


def test_pip_alone_makes_it_work(dist: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment that is empty, with what the wheel asks for, from pip's index."""
    _, wheel = dist
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    folder.mkdir()
    in_place([sys.executable, "-m", "venv", environment], folder)
    in_place([environment / "bin/pip", "install", "--quiet", "--no-compile", wheel], folder)
    command = environment / "bin/mbv3c"
    small = ("--variant", "small", "--width", 0.35, "--resolution", 32, "--classes", 10)
    in_place([command, "build", *small, "-o", "model.onnx"], folder)
    in_place([command, "compile", "model.onnx", "--target", "host_cpu", "-o", "bundle"], folder)
    assert "parity: passed on this machine" in in_place([command, "verify", "bundle"], folder)
    np.save(folder / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
    in_place([command, "run", "bundle", "--input", "x.npy", "-o", "y.npy"], folder)
    assert np.load(folder / "y.npy").shape == (1, 10)
