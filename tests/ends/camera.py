"""A small classifier for images, and what a camera gives it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import mbv3c
from mbv3c import Ends, Frame, JobSpec
from mbv3c.parity.reference import run, session
from mbv3c.targets import backend_for
from tests.onnx_text import graph, random

SIDE, CLASSES = 16, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = ("ant", "bee", 'a "cat"?', "ant", "é", "fox", "gnu", "hen")


def classifier(dtype: str = "float", shape: str = f"1, 3, {SIDE}, {SIDE}") -> onnx.ModelProto:
    """Return a network whose first convolution pads."""
    first = "c = Cast<to = 1>(x)" if dtype != "float" else "c = Identity(x)"
    last = ", 3" if shape.endswith(", 3") else ""
    moved = "t = Transpose<perm = [0, 3, 1, 2]>(c)" if last else "t = Identity(c)"
    return graph(
        f"""camera ({dtype}[{shape}] x) => (float[1, {CLASSES}] y) {{
            {first}
            {moved}
            a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(t, stem, bias)
            b = Relu(a)
            d = GlobalAveragePool(b)
            e = Flatten(d)
            y = Gemm<transB = 1>(e, head)
        }}""",
        stem=random(16, 3, 3, 3),
        bias=random(16, seed=1),
        head=random(CLASSES, 16, seed=2),
    )


def frame(seed: int = 0) -> NDArray[np.uint8]:
    """Return a frame, N, H, W, C, with white and black pixels at its border."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    pixels[:, 0, ::2], pixels[:, -1], pixels[:, 1:4, 0] = 255, 0, 255
    return pixels


def converted(pixels: NDArray[np.uint8], mean: Any = MEAN, std: Any = STD) -> NDArray[np.float32]:
    """Return a frame as images are prepared, N, C, H, W."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    normal = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def outputs(model: onnx.ModelProto, x: NDArray[Any]) -> list[NDArray[Any]]:
    return [np.asarray(each) for each in run(session(model), x)]


def distances(path: Path, target: str, precision: str) -> tuple[float, float]:
    """Compile the classifier for frames, run one, and compare with the model without frames.

    Returns:
        The largest error over the range of the scores, and their cosine.
    """
    spec = JobSpec(target, precision, tune_logs=Path("none"), ends=Ends(Frame()))
    bundle = mbv3c.compile(classifier(), spec, path, verify=False).bundle
    with backend_for(bundle).open(bundle, lambda step: None) as opened:
        ((ours,),) = opened.runner.run(opened.folder, [frame()])
    (theirs,) = outputs(classifier(), converted(frame()))
    a, b = (one.astype(np.float64).ravel() for one in (ours, theirs))
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.abs(a - b).max() / np.ptp(b)), cosine
