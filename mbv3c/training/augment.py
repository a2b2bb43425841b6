"""Changes of training images that do not change their class, each by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_SHIFT = 1 / 8  # of a side
_BRIGHTNESS, _CONTRAST, _SATURATION = 32.0, 0.4, 0.4


@dataclass(frozen=True)
class Augmentation:
    """A change of images.

    Attributes:
        apply: function from random numbers and images, NHWC, to changed images.
        help: what it does, and where it is wrong.
    """

    apply: Callable[[np.random.Generator, Pixels], Pixels]
    help: str


def augmented(names: Sequence[str], rng: np.random.Generator, images: Pixels) -> Pixels:
    """Return images after some augmentations.

    Args:
        names: names of augmentations.
        rng: random numbers.
        images: images, NHWC.
    """
    for name in names:
        images = AUGMENTATIONS[name].apply(rng, images)
    return images


def _crop(rng: np.random.Generator, images: Pixels) -> Pixels:
    """Shift each image by up to an eighth of its sides; pixels at the edge are repeated."""
    count, height, width, _ = images.shape
    places = []
    for side in (height, width):
        most = max(1, round(side * _SHIFT))
        shifts = rng.integers(-most, most + 1, count)
        places.append(np.clip(np.arange(side) + shifts[:, None], 0, side - 1))
    rows, columns = places
    shifted: Pixels = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]
    return shifted


def _flip(rng: np.random.Generator, images: Pixels) -> Pixels:
    """Mirror half of the images, left to right."""
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _colour(rng: np.random.Generator, images: Pixels) -> Pixels:
    """Change brightness, contrast and saturation, of each image by other amounts."""
    shape = (len(images), 1, 1, 1)
    x = images.astype(np.float32)
    contrast = rng.uniform(1 - _CONTRAST, 1 + _CONTRAST, shape).astype(np.float32)
    brightness = rng.uniform(-_BRIGHTNESS, _BRIGHTNESS, shape).astype(np.float32)
    saturation = rng.uniform(1 - _SATURATION, 1 + _SATURATION, shape).astype(np.float32)
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    x = (x - mean) * contrast + mean + brightness
    grey = x.mean(axis=3, keepdims=True)
    pixels: Pixels = np.clip(np.rint((x - grey) * saturation + grey), 0, 255).astype(np.uint8)
    return pixels


AUGMENTATIONS = {
    "crop": Augmentation(_crop, "shifts by up to an eighth of the sides"),
    "flip": Augmentation(_flip, "mirrors left to right: wrong for digits, text, left and right"),
    "colour": Augmentation(
        _colour, "brightness, contrast, saturation: wrong where the colour is the class"
    ),
}
