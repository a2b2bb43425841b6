"""What pages take as given: a model, images, keys, weights, and what other commands made.

Each maker writes one thing into a folder, under the name by which a page calls it. What takes a
command is made by that command.
"""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from mbv3c.execution.emulator.kit import fetch
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from tests.commands.test_input_shapes import network as of_any_size
from tests.execution.device import boards
from tests.graphs.weights.state_dicts import drawn, save_torch, torchvision
from tests.printed.lines import ROOT

CLASSES = 10
# Loopback addresses of this process alone, with which pages of two runs do not meet.
NETWORK = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250}"
SMALL = "--variant small --width 0.35 --resolution 32"

Maker = Callable[[Path], object]


def small(path: Path, resolution: int = 32) -> None:
    """Write a network that compiles in seconds."""
    given = ModelSpec("small", width=0.35, resolution=resolution, classes=CLASSES)
    onnx.save(build_model(given), path)


def digit(label: int, number: int) -> Image.Image:
    """Return a handwritten digit as a photo: in colour, and wider than it is high."""
    with np.load(ROOT / "tests/data/digits.npz") as digits:
        chosen = digits["images"][digits["labels"] == label][number]
    return Image.fromarray(chosen).convert("RGB").resize((64, 48))


def photos(folder: Path, each: int = 8) -> None:
    """Write a folder of images for each class, whose name is the class's number."""
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
        for number in range(each):
            digit(label, number).save(folder / str(label) / f"{number}.jpg")


def images(folder: Path) -> None:
    """Write images without classes."""
    folder.mkdir()
    for label in range(CLASSES):
        digit(label, 20).save(folder / f"{label}.jpg")


def labels(path: Path) -> None:
    """Write which class each of `photos` has."""
    rows = [f"{label}/{number}.jpg,{label}" for label in range(CLASSES) for number in range(8)]
    path.write_text("\n".join(["file,label", *rows, ""]))


def names(path: Path) -> None:
    """Write a name for each class."""
    path.write_text("".join(f"digit {label}\n" for label in range(CLASSES)))


def secret(path: Path) -> None:
    path.write_text("0123456789abcdef" * 4 + "\n")
    path.chmod(0o600)


def array(path: Path, side: int = 32) -> None:
    """Write an input of `small`."""
    draw = np.random.default_rng(0)
    np.save(path, draw.standard_normal((1, 3, side, side)).astype(np.float32))


def detector(path: Path) -> None:
    given = ModelSpec("small", width=0.35, head="ssdlite", resolution=320, classes=CLASSES)
    onnx.save(build_model(given), path)


def weights(path: Path) -> None:
    """Write a state dict like torchvision's, with drawn weights."""
    save_torch(path, drawn(torchvision("small")))


def board(folder: Path) -> None:
    """Install mbv3c on a board, which is emulated: its Python runs under qemu-user."""
    python = boards.board_python(fetch(print), boards.provide_board(), "cortex-a76")
    command = " ".join(f"'{word}'" for word in (*python, "-m", "mbv3c"))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/mbv3c").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (folder / "bin/mbv3c").chmod(0o755)


def block(page: str, start: str) -> Maker:
    """Return what writes a block of a page, from the line that begins with `start` on."""

    def write(path: Path) -> None:
        text = (ROOT / page).read_text()
        found = re.search(rf"^( +){re.escape(start)}.*\n(?:\1.*\n|\n)*", text, re.MULTILINE)
        assert found, f"{page} has no block that begins with {start!r}"
        path.write_text(textwrap.dedent(found[0]).rstrip() + "\n")

    return write


def grid_of_the_page(path: Path) -> None:
    """Write the grid that docs/sweep.md prints, with the least of its sizes."""
    block("docs/sweep.md", "networks:")(path)
    lesser = path.read_text()
    for printed, less in (
        ("[small, large]", "[small]"),
        ("[0.5, 0.75, 1.0]", "[0.5]"),
        ("[96, 160]", "[32]"),
        ("resolution: 96", "resolution: 32"),
        ("steps: 4000", "steps: 2"),
    ):
        assert printed in lesser, printed
        lesser = lesser.replace(printed, less)
    path.write_text(lesser)


def text(written: str) -> Maker:
    return lambda path: path.write_text(textwrap.dedent(written).lstrip())


# A search and an adaptation that end in a minute.
SHORT_SEARCH = (
    "--batches 1 --asked 6 --trained 1 --rounds 2 --repeats 1 --bands 1 --least 0.1 --finalists 1 "
    "--final-steps 2 --final-seeds 2 --judged 4"
)
SHORT_ADAPTATION = "--tune-steps 1 --finish-steps 2 --saving 0.4"

# By the names that pages use, or by page and name where a page has one of its own. A text is a
# command; it finds what is made before it.
GIVEN: dict[str, Maker | str] = {
    "model.onnx": small,
    "your.onnx": small,
    "large.onnx": small,
    "own.onnx": small,
    "detector.onnx": lambda path: onnx.save(of_any_size(), path),
    "photos": photos,
    "FOLDER": photos,
    "calibration": images,
    "images": images,
    "photo.jpg": lambda path: digit(3, 30).save(path),
    "street.jpg": lambda path: digit(3, 30).save(path),
    "digits.npz": lambda path: shutil.copy(ROOT / "tests/data/digits.npz", path),
    "labels.csv": labels,
    "classes.txt": names,
    "imagenet.txt": names,
    "labels.txt": names,
    "secret": secret,
    "x.npy": array,
    "mobilenet_v3_small-047dcff4.pth": weights,
    "mbv3c": board,
    ".venv": lambda path: path.symlink_to(sys.prefix),
    ".venv-npu": lambda path: path.symlink_to(sys.prefix),
    "examples": lambda path: shutil.copytree(ROOT / "examples", path),
    "scripts": lambda path: path.symlink_to(ROOT / "scripts"),
    "CMakeLists.txt": block("docs/embedding.md", "cmake_minimum_required"),
    "main.cpp": block("docs/embedding.md", "#include <array>"),
    "grid.yaml": text(
        """
        networks:
          - variant: small
            width: [0.35, 0.5]
            resolution: 32
        targets: [mobile_gpu]
        """
    ),
    "BUNDLE": "mbv3c compile model.onnx --target host_cpu -o BUNDLE",
    "bundle-fp32": "mbv3c compile model.onnx --target host_cpu -o bundle-fp32",
    "bundle-int8": "mbv3c compile model.onnx --target host_cpu --precision int8 -o bundle-int8",
    "mobilenet_v3_large-arm_cpu-cortex-a76-fp32": (
        f"mbv3c compile {SMALL} --target arm_cpu -o mobilenet_v3_large-arm_cpu-cortex-a76-fp32"
    ),
    "docs/detection.md:x.npy": lambda path: array(path, 320),
    "docs/detection.md:model.onnx": detector,
    "docs/sweep.md:grid.yaml": grid_of_the_page,
    "tls.yaml": block("docs/cluster.md", "distributed:"),
    "layers.json": f"mbv3c build {SMALL} --save-architecture layers.json -o built.onnx",
    "v2.safetensors": (
        "mbv3c build --network mobilenet_v2 --width 0.5 --resolution 32 --classes 10 "
        "--save-weights v2.safetensors -o v2.onnx"
    ),
    "search-arm_cpu-cortex-a76": (
        "mbv3c search --target arm_cpu:cortex-a76 --images digits.npz --test 0.1 --budget 0.5x "
        f"--resolution 32 {SHORT_SEARCH}"
    ),
    "a board that serves": f"mbv3c device serve --host {NETWORK}.20",
    "a tracker": (
        f"python -m tvm.exec.rpc_tracker --host {NETWORK}.10 --port 9190 --port-end 9191"
    ),
    "docs/tuning-on-devices.md:a board that serves": (
        f"mbv3c/bin/mbv3c device serve --host {NETWORK}.20 --secret secret"
    ),
    "a board of the tracker": (
        f"mbv3c/bin/mbv3c device serve --host {NETWORK}.21 --tracker {NETWORK}.10:9190 "
        "--key pi5 --secret secret"
    ),
    "a scheduler": f"mbv3c cluster scheduler --host {NETWORK}.1 --insecure",
    "a worker": f"mbv3c cluster worker {NETWORK}.1:8786 --resources npu=1 --insecure",
    "semnasnet_100.safetensors": (
        "mbv3c build --network mnasnet_a1 --save-weights semnasnet_100.safetensors -o drawn.onnx"
    ),
}
