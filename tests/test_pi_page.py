"""The six commands of docs/pi.md, in order, with an emulated board in the place of the Pi."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3c.execution.emulator.kit import EmulatorKit
from tests.command_line import mbv3c
from tests.execution.device import boards
from tests.execution.device.serving import served
from tests.graphs.weights.state_dicts import drawn, save_torch, torchvision

PAGE = Path(__file__).parents[1] / "docs/pi.md"


def commands() -> list[list[str]]:
    """Return what the page types under this heading, without the name of the command."""
    text = PAGE.read_text().split("## Six commands")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^ {4}\S*mbv3c (.+)$", text, re.MULTILINE)]


def prepare(folder: Path) -> None:
    """Write what the page begins with: weights of torchvision, two folders of images, a secret."""
    save_torch(folder / "mobilenet_v3_small-047dcff4.pth", drawn(torchvision("small")))
    draw = np.random.default_rng(0)
    for place in ("calibration", "photos/207", "photos/3"):
        (folder / place).mkdir(parents=True)
        for number in range(6 if place == "calibration" else 2):
            coarse = draw.integers(0, 256, (9 + number, 12, 3), np.uint8)
            Image.fromarray(coarse).resize((320, 256)).save(folder / place / f"{number}.jpg")
    (folder / "secret").write_text("0123456789abcdef" * 4 + "\n")
    (folder / "secret").chmod(0o600)


def test_there_are_six() -> None:
    assert [line[0] for line in commands()] == [
        *("build", "compile", "verify"),
        *("device", "verify", "verify"),
    ]


def test_from_weights_and_images_to_accuracy_on_a_board(
    tmp_path: Path, emulator_kit: EmulatorKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    *on_the_pc, serve, check, accuracy = commands()
    for line in on_the_pc:
        done = mbv3c(*line)
        assert done.returncode == 0, done.stderr
    assert "the bundle" in done.stdout
    assert serve == ["device", "serve", "--host", "192.168.1.20", "--secret", "secret"]
    python = boards.board_python(emulator_kit, boards.provide_board(), "cortex-a76")
    with served(tmp_path, "--secret", tmp_path / "secret", python=python) as board:
        for line in (check, accuracy):
            there = [word.replace("192.168.1.20:9090", board.address) for word in line]
            assert there != line
            done = mbv3c(*there)
            assert done.returncode == 0, done.stderr
            assert board.address in done.stdout
    assert "onnxruntime on the quantized model" in done.stdout
