"""torch is found without being imported, and the images to try it with are fetched."""

from pathlib import Path

import pytest
import torch

from mbv3c.training import demo
from mbv3c.training.torch_package import TORCH_VERSION, torch_package
from tests.command_line import mbv3c


def test_the_installed_torch_is_what_it_says_itself() -> None:
    found = torch_package()
    assert found is not None
    assert found.version.partition("+")[0] == torch.__version__.partition("+")[0] == TORCH_VERSION
    assert found.cuda == (torch.version.cuda or "")


def test_images_are_fetched_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    assert demo.demo_folder() is None
    assert mbv3c("doctor", "--fetch=demo").returncode == 0
    folder = demo.demo_folder()
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
