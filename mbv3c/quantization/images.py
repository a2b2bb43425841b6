"""Images as inputs: how an image is prepared for the network.

A model's metadata may say so, as `image_metadata` has it; `with_preparing` writes them.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import UsageError
from mbv3c.graphs.frames import FRAME, pixel_top
from mbv3c.graphs.load import input_shape_of, model_inputs, static_shape
from mbv3c.graphs.outputs import metadata_of, with_metadata
from mbv3c.graphs.spec import HEAD_TRAITS
from mbv3c.quantization import image_metadata as stored
from mbv3c.quantization.decoding import decode

if TYPE_CHECKING:
    from PIL import Image

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

# Torchvision and timm evaluate on the middle 224 pixels of 256.
_SHOWN = 224 / 256
_CHANNELS = 3

Layout = Literal["NCHW", "NHWC"]
LAYOUTS: tuple[Layout, Layout] = ("NCHW", "NHWC")
STRETCH = "stretch"
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
    entries = metadata_of(model)
    channels_last = _channels_last(shape, overrides.layout, stored.layout_of(entries))
    height, width = shape[1:3] if channels_last else shape[2:]
    head = entries.get("mbv3c.head", "classify")
    default = HEAD_TRAITS.get(head, HEAD_TRAITS["classify"])
    own_mean, own_std, _ = _range_of(model)
    mean = overrides.mean or stored.numbers_of(entries, stored.MEAN, own_mean or default.mean)
    std = overrides.std or stored.numbers_of(entries, stored.STD, own_std or default.std)
    if overrides.scale is not None:  # the model's own are for pixels of another range
        mean, std = overrides.mean or _NONE[0], overrides.std or _NONE[1]
    shown = stored.shown_of(entries, _SHOWN if head == "classify" else None)
    if overrides.resize is not None or overrides.crop is not None:
        shown = _shown(overrides, min(height, width))
    scale = stored.scale_of(entries, TO_ONE) if overrides.scale is None else overrides.scale
    bgr = stored.is_bgr(entries) if overrides.bgr is None else overrides.bgr
    return Preprocessing(height, width, channels_last, mean, std, shown, scale, bgr)


def as_metadata(prepared: Preprocessing) -> dict[str, str]:
    """Return the metadata by which a model says how its images are prepared.

    The usual factor of the pixels and the usual order of colours are left out.
    """
    entries = {
        stored.MEAN: json.dumps(prepared.mean),
        stored.STD: json.dumps(prepared.std),
        stored.SHOWN: json.dumps(prepared.shown),
    }
    if prepared.scale != TO_ONE:
        entries[stored.SCALE] = json.dumps(prepared.scale)
    if prepared.bgr:
        entries[stored.COLOURS] = json.dumps(prepared.channels)
    return entries


def with_preparing(model: onnx.ModelProto, overrides: Overrides) -> onnx.ModelProto:
    """Return a copy whose metadata say of its images what a user says.

    What the user leaves open stays open; where nothing is said the model comes back as it is.

    Raises:
        UsageError: the input is no image of three channels, or the overrides are impossible.
        ModelError: the metadata are damaged.
    """
    if overrides == AS_THE_MODEL_SAYS:
        return model
    prepared = preprocessing(model, input_shape_of(model), overrides)
    scaled = overrides.scale is not None  # which sets mean and std, too
    said = {
        stored.MEAN: (scaled or overrides.mean is not None, prepared.mean),
        stored.STD: (scaled or overrides.std is not None, prepared.std),
        stored.SHOWN: (
            overrides.resize is not None or overrides.crop is not None,
            prepared.shown,
        ),
        stored.SCALE: (scaled, prepared.scale),
        stored.COLOURS: (overrides.bgr is not None, prepared.channels),
        stored.LAYOUT: (overrides.layout is not None, prepared.layout),
    }
    return with_metadata(
        model, {key: json.dumps(value) for key, (there, value) in said.items() if there}
    )


def described(
    model: onnx.ModelProto, overrides: Overrides = AS_THE_MODEL_SAYS
) -> dict[str, Any] | None:
    """Return how images are prepared, and by whose word, in the documented form.

    None of a model that takes something else than one image of three channels.

    Raises:
        ModelError: the metadata are damaged.
    """
    value, *others = model_inputs(model)
    shape = static_shape(value)
    if others or shape is None:
        return None
    try:
        prepared = preprocessing(model, shape, overrides)
    except UsageError:
        return None
    return {**prepared.to_json(), "from": origins(model, overrides)}


_NONE = ((0.0,) * _CHANNELS, (1.0,) * _CHANNELS)  # a mean and a std that change nothing


def origins(model: onnx.ModelProto, overrides: Overrides) -> dict[str, str]:
    """Return where each part of the preprocessing comes from, by its key in the JSON."""
    entries, (_, _, own) = metadata_of(model), _range_of(model)

    def origin(option: str, override: object, key: str) -> str:
        if override is not None:
            return option
        if overrides.scale is not None and key in (stored.MEAN, stored.STD):
            return "none, as --scale is given"
        if key in entries:
            return f"the model's metadata {key}"
        return own if own and key != "mbv3c.head" else "ImageNet, as nothing else is said"

    scaled = overrides.resize if overrides.resize is not None else overrides.crop
    return {
        "mean": origin("--mean", overrides.mean, stored.MEAN),
        "std": origin("--std", overrides.std, stored.STD),
        "shown": origin(
            "--resize, --crop", scaled, stored.SHOWN if stored.SHOWN in entries else "mbv3c.head"
        ),
        "layout": "--layout" if overrides.layout else _by(entries, stored.LAYOUT, _SHAPE),
        "scale": _by(entries, stored.SCALE, _USUAL) if overrides.scale is None else "--scale",
        "channels": "--bgr" if overrides.bgr else _colours_by(entries),
    }


_USUAL, _SHAPE = "as nothing else is said", "the input's shape"


def _by(entries: Mapping[str, str], key: str, otherwise: str) -> str:
    return f"the model's metadata {key}" if key in entries else otherwise


def _colours_by(entries: Mapping[str, str]) -> str:
    return _by(entries, stored.COLOURS, _by(entries, FRAME, _USUAL))


def _range_of(
    model: onnx.ModelProto,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, str]:
    """Return the mean and the std that give pixels in a model's own range, and why these."""
    top = pixel_top(model)
    if top is None:
        return None, None, ""
    why = f"the model normalises its input itself: pixels from 0 to {top:g}"
    return (0.0,) * _CHANNELS, (1 / top,) * _CHANNELS, why


def _channels_last(shape: tuple[int, ...], layout: Layout | None, said: str | None) -> bool:
    first, last = (len(shape) == 4 and shape[axis] == _CHANNELS for axis in (1, 3))
    if layout is not None and not (last if layout == "NHWC" else first):
        raise UsageError(f"--layout {layout} does not fit the model's input {shape}; leave it out")
    if not (first or last):
        raise UsageError(
            f"images do not fit the model's input {shape}, which has not three channels, neither "
            "NCHW nor NHWC; .npy files do"
        )
    if layout is None and said is not None and (last if said == "NHWC" else first):
        return said == "NHWC"
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


def read_image(path: Path, processing: Preprocessing) -> NDArray[np.float32]:
    """Read an image as one input, without the batch, as `decode` and `as_input` say.

    Raises:
        ToolError: Pillow is not installed.
        ImageError: the image cannot be read.
    """
    return as_input(decode(path), processing)


def as_input(image: "Image.Image", processing: Preprocessing) -> NDArray[np.float32]:
    """Return an image in 8-bit RGB as one input, without the batch."""
    pixels = np.asarray(resized(image, processing), np.float32)
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
    return resized(decode(path), processing)


def resized(image: "Image.Image", processing: Preprocessing) -> NDArray[np.uint8]:
    """Return the part of an image that becomes the input, in its size: HWC, or HW of a grey one.

    Args:
        image: an image in 8 bits, RGB or grey.
        processing: how images are prepared.
    """
    from PIL import Image

    size = (processing.width, processing.height)
    box = None if processing.shown is None else part_shown(image.size, processing)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about single files, in all threads, inside this context."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def part_shown(
    image: tuple[int, int], processing: Preprocessing
) -> tuple[float, float, float, float]:
    """Return the part of an image that becomes the input: left, top, right, bottom.

    Args:
        image: the width and the height of the image; the result is in its pixels.
        processing: how images are prepared.
    """
    if processing.shown is None:
        return 0.0, 0.0, float(image[0]), float(image[1])
    size = processing.width, processing.height
    scale = processing.shown * min(image[0] / size[0], image[1] / size[1])
    width, height = scale * size[0], scale * size[1]
    left, top = (image[0] - width) / 2, (image[1] - height) / 2
    return left, top, left + width, top + height
