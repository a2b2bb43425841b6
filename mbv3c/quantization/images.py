"""Images as inputs: how an image is prepared for the network.

A model's metadata may say so: `mbv3c.mean` and `mbv3c.std` are lists of three numbers, and
`mbv3c.shown` is the share of an image's middle part that becomes the input, or null for the whole
image, stretched.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused, plain_file
from mbv3c.errors import ImageError, ModelError, ToolError, UsageError
from mbv3c.graphs.frames import FRAME, pixel_top
from mbv3c.graphs.outputs import metadata_of
from mbv3c.graphs.spec import HEAD_TRAITS

if TYPE_CHECKING:
    from PIL import Image

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

# Torchvision and timm evaluate on the middle 224 pixels of 256.
_SHOWN = 224 / 256
_CHANNELS = 3
# Pillow's own limit for an image to be no attack on memory, of which it only warns.
MOST_PIXELS = 89_478_485
_MOST_IMAGE = 1 << 30  # bytes of a file
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

Layout = Literal["NCHW", "NHWC"]
LAYOUTS: tuple[Layout, Layout] = ("NCHW", "NHWC")
STRETCH = "stretch"
SHOWN = "mbv3c.shown"
TO_ONE = 1 / 255  # the factor that takes pixels of 8 bits to 0..1


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input.

    Attributes:
        height: height of the input in pixels.
        width: width of the input in pixels.
        channels_last: whether the input's layout is NHWC instead of NCHW.
        mean: mean of red, green and blue, subtracted from the pixels times `scale`.
        std: standard deviation of red, green and blue, by which the difference is divided.
        shown: share of the image's largest middle part with the input's proportions that becomes
            the input; None to stretch the whole image to the input.
        scale: factor of the pixels, which are 0 to 255.
        bgr: whether the input's channels are blue, green and red instead of red, green and blue.
    """

    height: int
    width: int
    channels_last: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shown: float | None
    scale: float = TO_ONE
    bgr: bool = False

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.channels_last]

    @property
    def channels(self) -> str:
        return "BGR" if self.bgr else "RGB"

    def __str__(self) -> str:
        """Say what happens to the pixels."""
        mean, std = (" ".join(f"{value:g}" for value in row) for row in (self.mean, self.std))
        times = "over 255" if self.scale == TO_ONE else f"times {self.scale:g}"
        shown = "all of it" if self.shown is None else f"middle {self.shown:.4g} of it"
        return f"{shown}, pixels {times}, mean {mean}, std {std}, {self.channels}, {self.layout}"

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "height": self.height,
            "width": self.width,
            "layout": self.layout,
            "mean": list(self.mean),
            "std": list(self.std),
            "shown": self.shown,
            "scale": self.scale,
            "channels": self.channels,
        }


@dataclass(frozen=True)
class Overrides:
    """The user's own preprocessing; None where the model decides.

    Attributes:
        mean: value of `Preprocessing.mean`.
        std: value of `Preprocessing.std`.
        resize: pixels to which the image's shorter side is scaled, or `STRETCH`.
        crop: pixels of the scaled side that become the input's shorter side.
        layout: layout of the input.
        scale: value of `Preprocessing.scale`; then what is not said of mean and std is 0 and 1.
        bgr: value of `Preprocessing.bgr`.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | str | None = None
    crop: int | None = None
    layout: Layout | None = None
    scale: float | None = None
    bgr: bool | None = None


AS_THE_MODEL_SAYS = Overrides()


def preprocessing(
    model: onnx.ModelProto, shape: tuple[int, ...], overrides: Overrides = AS_THE_MODEL_SAYS
) -> Preprocessing:
    """Return what the overrides say, or else the model's metadata, or else ImageNet's values.

    Raises:
        UsageError: the input is no image of three channels, or the overrides are impossible.
        ModelError: the metadata are damaged.
    """
    channels_last = _channels_last(shape, overrides.layout)
    height, width = shape[1:3] if channels_last else shape[2:]
    entries = metadata_of(model)
    head = entries.get("mbv3c.head", "classify")
    default = HEAD_TRAITS.get(head, HEAD_TRAITS["classify"])
    own_mean, own_std, _ = _range_of(model)
    mean = overrides.mean or _triple(entries, "mean", own_mean or default.mean)
    std = overrides.std or _triple(entries, "std", own_std or default.std)
    if overrides.scale is not None:  # the model's own are for pixels of another range
        mean, std = overrides.mean or _NONE[0], overrides.std or _NONE[1]
    shown = _shown_of(entries, _SHOWN if head == "classify" else None)
    if overrides.resize is not None or overrides.crop is not None:
        shown = _shown(overrides, min(height, width))
    scale = TO_ONE if overrides.scale is None else overrides.scale
    bgr = _is_bgr(entries) if overrides.bgr is None else overrides.bgr
    return Preprocessing(height, width, channels_last, mean, std, shown, scale, bgr)


def as_metadata(prepared: Preprocessing) -> dict[str, str]:
    """Return the metadata by which a model says how its images are prepared.

    Args:
        prepared: the steps; the factor of the pixels is the usual one.
    """
    return {
        "mbv3c.mean": json.dumps(prepared.mean),
        "mbv3c.std": json.dumps(prepared.std),
        SHOWN: json.dumps(prepared.shown),
    }


_NONE = ((0.0,) * _CHANNELS, (1.0,) * _CHANNELS)  # a mean and a std that change nothing


def origins(model: onnx.ModelProto, overrides: Overrides) -> dict[str, str]:
    """Return where each part of the preprocessing comes from, by its key in the JSON."""
    entries, (_, _, own) = metadata_of(model), _range_of(model)

    def origin(option: str, override: object, key: str) -> str:
        if override is not None:
            return option
        if overrides.scale is not None and key in ("mbv3c.mean", "mbv3c.std"):
            return "none, as --scale is given"
        if key in entries:
            return f"the model's metadata {key}"
        return own if own and key != "mbv3c.head" else "ImageNet, as nothing else is said"

    scaled = overrides.resize if overrides.resize is not None else overrides.crop
    return {
        "mean": origin("--mean", overrides.mean, "mbv3c.mean"),
        "std": origin("--std", overrides.std, "mbv3c.std"),
        "shown": origin("--resize, --crop", scaled, SHOWN if SHOWN in entries else "mbv3c.head"),
        "layout": "--layout" if overrides.layout else "the input's shape",
        "scale": _USUAL if overrides.scale is None else "--scale",
        "channels": "--bgr" if overrides.bgr else _frame_or_usual(metadata_of(model)),
    }


_USUAL = "as nothing else is said"


def _frame_or_usual(entries: dict[str, str]) -> str:
    return f"the model's metadata {FRAME}" if FRAME in entries else _USUAL


def _is_bgr(entries: dict[str, str]) -> bool:
    """Say whether a model takes frames whose channels are blue, green and red.

    Raises:
        ModelError: the metadata are damaged.
    """
    if FRAME not in entries:
        return False
    try:
        frame = parse_json(entries[FRAME])
    except Refused as error:
        raise ModelError(f"the model's metadata {FRAME} is no JSON: {error}; remove it") from error
    return isinstance(frame, dict) and frame.get("channels") == "BGR"


def _range_of(
    model: onnx.ModelProto,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, str]:
    """Return the mean and the std that give pixels in a model's own range, and why these."""
    top = pixel_top(model)
    if top is None:
        return None, None, ""
    why = f"the model normalises its input itself: pixels from 0 to {top:g}"
    return (0.0,) * _CHANNELS, (1 / top,) * _CHANNELS, why


def _channels_last(shape: tuple[int, ...], layout: Layout | None) -> bool:
    first, last = (len(shape) == 4 and shape[axis] == _CHANNELS for axis in (1, 3))
    if layout is not None and not (last if layout == "NHWC" else first):
        raise UsageError(f"--layout {layout} does not fit the model's input {shape}; leave it out")
    if not (first or last):
        raise UsageError(
            f"images do not fit the model's input {shape}, which has not three channels, neither "
            "NCHW nor NHWC; .npy files do"
        )
    return not first if layout is None else layout == "NHWC"


def _shown(overrides: Overrides, side: int) -> float | None:
    """Return `Preprocessing.shown` for an input whose shorter side has `side` pixels."""
    resize, crop = overrides.resize, overrides.crop
    if resize == STRETCH:
        if crop is not None:
            raise UsageError(f"--resize {STRETCH} shows the whole image: leave --crop out")
        return None
    crop = side if crop is None else crop
    pixels = side / _SHOWN if resize is None else int(resize)
    if not 0 < crop <= pixels:
        raise UsageError(
            f"--crop {crop} of an image whose shorter side is scaled to {pixels:g} pixels is not "
            "possible; crop at most that"
        )
    return crop / pixels


def _shown_of(entries: dict[str, str], default: float | None) -> float | None:
    """Return the share of an image that the metadata name, or else the default.

    Raises:
        ModelError: the metadata are damaged.
    """
    if SHOWN not in entries:
        return default
    try:
        share = parse_json(entries[SHOWN])
    except Refused:
        share = 0
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ModelError(
            f"the model's metadata {SHOWN} is {entries[SHOWN]!r}, neither a share above 0 and up "
            "to 1 nor null; remove that entry or correct it"
        )
    return float(share)


def _triple(entries: dict[str, str], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    entry = entries.get(f"mbv3c.{key}")
    if entry is None:
        return default
    try:
        values = tuple(float(value) for value in parse_json(entry))
    except (ValueError, TypeError):
        values = ()
    if len(values) != _CHANNELS or not np.isfinite(values).all() or (key == "std" and 0 in values):
        raise ModelError(
            f"the model's metadata mbv3c.{key} is {entry!r}, not three numbers; remove that entry "
            "or correct it"
        )
    return values


def read_image(path: Path, processing: Preprocessing) -> NDArray[np.float32]:
    """Read an image as one input, without the batch.

    The image is turned upright as its EXIF data say. Transparency is left out, 16 bits become 8,
    and of several pictures in a file the first is taken.

    Raises:
        ToolError: Pillow is not installed.
        ImageError: the image cannot be read.
    """
    pixels = np.asarray(read_pixels(path, processing), np.float32)
    mean, std = np.array(processing.mean, np.float32), np.array(processing.std, np.float32)
    to_one = processing.scale == TO_ONE
    scaled = pixels / np.float32(255) if to_one else pixels * np.float32(processing.scale)
    x: NDArray[np.float32] = (scaled - mean) / std
    x = np.ascontiguousarray(x[:, :, ::-1]) if processing.bgr else x
    return x if processing.channels_last else np.ascontiguousarray(x.transpose(2, 0, 1))


def read_pixels(path: Path, processing: Preprocessing) -> NDArray[np.uint8]:
    """Read an image's part that becomes the input, in its size: HWC, red, green and blue.

    Raises:
        ToolError: Pillow is not installed.
        ImageError: the image cannot be read.
    """
    return resized(_decode(path), processing)


def resized(image: "Image.Image", processing: Preprocessing) -> NDArray[np.uint8]:
    """Return the part of an image that becomes the input, in its size: HWC, or HW of a grey one.

    Args:
        image: an image in 8 bits, RGB or grey.
        processing: how images are prepared.
    """
    from PIL import Image

    size = (processing.width, processing.height)
    box = None if processing.shown is None else _middle(image.size, size, processing.shown)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about single files, in all threads, inside this context."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _decode(path: Path) -> "Image.Image":
    """Read an image upright, in 8-bit RGB."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ToolError("reading images takes Pillow; install it: pip install pillow") from error
    try:
        # Of Pillow's other formats some start programs.
        if path.is_file() and not path.stat().st_size:
            raise ImageError(path, "it is empty")
        with plain_file(path, _MOST_IMAGE) as file, Image.open(file, formats=_FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > MOST_PIXELS:
                raise ImageError(path, f"{pixels:,} pixels are too many, {MOST_PIXELS:,} the most")
            return _rgb(ImageOps.exif_transpose(opened))
    except ImageError:
        raise
    except Refused as error:
        raise ImageError(path, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "it is of no format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"more than {MOST_PIXELS:,} pixels are too many") from error
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ImageError(path, f"{type(error).__name__}: {error}") from error


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):  # grey, 16 bits
        levels = np.asarray(image)
        if levels.dtype.itemsize > 2:  # some versions of Pillow read 16 bits as 32
            levels = np.clip(levels, 0, 0xFFFF)
        # Divided by 257 and rounded, exactly and in 16 bits: images may be large.
        levels = np.minimum(levels.astype(np.uint16), 0xFF7F) + 128
        image = Image.fromarray(((levels - (levels >> 8)) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # whose transparency would warn
        image = image.convert("RGBA")
    return image.convert("RGB")


def _middle(
    image: tuple[int, int], size: tuple[int, int], shown: float
) -> tuple[float, float, float, float]:
    """Return the part of an image that becomes the input, in its own pixels."""
    scale = shown * min(image[0] / size[0], image[1] / size[1])
    width, height = scale * size[0], scale * size[1]
    left, top = (image[0] - width) / 2, (image[1] - height) / 2
    return left, top, left + width, top + height
