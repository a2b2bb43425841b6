"""Images as inputs: what is done to a JPEG or PNG before the network sees it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import CalibrationError, ModelError, ToolError, UsageError
from mbv3c.graphs.spec import HEAD_TRAITS

IMAGES = (".jpg", ".jpeg", ".png")

# Torchvision and timm evaluate on the middle 224 pixels of 256.
_CROPPED = 224 / 256
_CHANNELS = 3


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image.

    Attributes:
        height: of the input.
        width: of the input.
        channels_last: NHWC instead of NCHW.
        mean: subtracted per RGB channel of an image scaled to 0..1.
        std: what that is then divided by.
        cropped: scaled so that it covers 256/224 of the input, of which the middle is taken;
            else stretched to the input.
    """

    height: int
    width: int
    channels_last: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cropped: bool


def preprocessing(model: onnx.ModelProto, shape: tuple[int, ...]) -> Preprocessing:
    """Return what the model's metadata say, and ImageNet's values where they say nothing.

    Raises:
        UsageError: the input is no image of three channels.
        ModelError: the metadata are damaged.
    """
    channels_last = len(shape) == 4 and shape[3] == _CHANNELS and shape[1] != _CHANNELS
    if len(shape) != 4 or shape[3 if channels_last else 1] != _CHANNELS:
        raise UsageError(f"images do not fit the model's input {shape}; calibrate with .npy files")
    height, width = shape[1:3] if channels_last else shape[2:]
    entries = {entry.key: entry.value for entry in model.metadata_props}
    head = entries.get("mbv3c.head", "classify")
    default = HEAD_TRAITS.get(head, HEAD_TRAITS["classify"])
    mean = _three(entries, "mean", default.mean)
    std = _three(entries, "std", default.std)
    return Preprocessing(height, width, channels_last, mean, std, cropped=head == "classify")


def _three(entries: dict[str, str], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    entry = entries.get(f"mbv3c.{key}")
    if entry is None:
        return default
    try:
        values = tuple(float(value) for value in json.loads(entry))
    except (ValueError, TypeError):
        values = ()
    if len(values) != _CHANNELS or not np.isfinite(values).all() or (key == "std" and 0 in values):
        raise ModelError(
            f"the model's metadata mbv3c.{key} is {entry!r}, not three numbers; remove that entry "
            "or correct it"
        )
    return values


def read_image(path: Path, prepared: Preprocessing) -> NDArray[np.float32]:
    """Read an image as one input, without the batch.

    Raises:
        ToolError: Pillow is not installed.
        CalibrationError: the image cannot be read.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolError("reading images takes Pillow; install it: pip install pillow") from error
    size = (prepared.width, prepared.height)
    try:
        with Image.open(path) as opened:
            rgb = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CalibrationError(
            f"{path} is no image, or it is broken: {error}; replace or remove it"
        ) from error
    box = _middle(rgb.size, size) if prepared.cropped else None
    resized = rgb.resize(size, Image.Resampling.BILINEAR, box=box)
    mean, std = np.array(prepared.mean, np.float32), np.array(prepared.std, np.float32)
    x: NDArray[np.float32] = (np.asarray(resized, np.float32) / np.float32(255) - mean) / std
    return x if prepared.channels_last else np.ascontiguousarray(x.transpose(2, 0, 1))


def _middle(image: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of an image that becomes the input, in its own pixels."""
    scale = _CROPPED * min(image[0] / size[0], image[1] / size[1])
    width, height = scale * size[0], scale * size[1]
    left, top = (image[0] - width) / 2, (image[1] - height) / 2
    return left, top, left + width, top + height
