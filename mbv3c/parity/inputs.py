"""The inputs on which parity is checked."""

import numpy as np
from numpy.typing import NDArray

# Standard deviations. Normalised images have about 1; the others reach the flat, the curved and
# the linear parts of hard-swish and hard-sigmoid.
SCALES = (1.0, 0.25, 0.5, 1.5, 2.0)


def parity_inputs(shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Return one seeded input per scale; the first is the golden input of a bundle.

    Half of each input's variance is white noise and half is one offset per image and channel, so
    that both texture and flat areas count. `shape` is the model's input shape, batch first.
    """
    rng = np.random.default_rng(20190506)
    flat = (*shape[:2], *(1 for _ in shape[2:]))
    return [
        (scale * (rng.standard_normal(shape) + rng.standard_normal(flat)) / np.sqrt(2)).astype(
            np.float32
        )
        for scale in SCALES
    ]
