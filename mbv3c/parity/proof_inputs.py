"""The inputs on which a single rewrite is checked."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

# Where hard-swish and hard-sigmoid bend, and the zero between.
_POINTS = (-3.0, 0.0, 3.0)


def _per_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], *(1 for _ in shape[2:]))


def _edges(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw the points themselves and their neighbours in fp32 on both sides."""
    point = rng.choice(_POINTS, shape).astype(np.float32)
    towards = rng.choice(np.array([-np.inf, 0.0, np.inf], np.float32), shape)
    beside = np.nextafter(point, towards)
    return np.where(towards == 0.0, point, beside).astype(np.float64)


def _near(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice(_POINTS, shape) + 0.5 * rng.standard_normal(shape)


def _near_by_channel(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw one point per image and channel, so that a mean over the map is not near zero."""
    return rng.choice(_POINTS, _per_channel(shape)) + 0.5 * rng.standard_normal(shape)


def _wide(scale: float) -> Draw:
    return lambda rng, shape: scale * rng.standard_normal(shape)


def _wide_by_channel(scale: float) -> Draw:
    return lambda rng, shape: (
        scale * (rng.standard_normal(_per_channel(shape)) + 0.5 * rng.standard_normal(shape))
    )


# Each kind of input, as a refusal names it, with two ways to draw an array of a shape: all values
# alike, and values that depend on the channel.
KINDS: dict[str, tuple[Draw, ...]] = {
    "inputs at -3, 0 and 3": (_edges, _edges),
    "inputs around -3, 0 and 3": (_near, _near_by_channel),
    "inputs of standard deviation 8": (_wide(8.0), _wide_by_channel(8.0)),
    "inputs of standard deviation 100": (_wide(100.0), _wide_by_channel(100.0)),
}
