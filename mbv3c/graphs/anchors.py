"""The default boxes (anchors) of SSD.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", arXiv:1512.02325, section 2.2, in the
form of torchvision's `DefaultBoxGenerator`.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

MIN_SCALE, MAX_SCALE = 0.2, 0.95
ASPECT_RATIOS = (2, 3)
PER_CELL = 2 + 2 * len(ASPECT_RATIOS)


def anchors(sides: Sequence[int], resolution: int) -> tuple[NDArray[np.float32], ...]:
    """Return centres and sizes of the anchors of several square maps, in pixels of the input.

    Map k of m has the scale s_k = 0.2 + (0.95 - 0.2) k / (m - 1), as a fraction of the input's
    side; one more scale, 1, follows the last. Each cell has, in this order, a square of s_k, a
    square of sqrt(s_k s_k+1), and for each aspect ratio a lying and a standing box of area s_k².
    No box is larger than the input. Cells go row by row, the boxes of a cell are neighbours.

    Args:
        sides: sides of the maps in cells, at least two, the largest first.
        resolution: side of the input in pixels.

    Returns:
        Two arrays `(anchors, 2)`: centre x and y, width and height.
    """
    steps = len(sides) - 1
    scales = [MIN_SCALE + (MAX_SCALE - MIN_SCALE) * k / steps for k in range(len(sides))]
    centres, sizes = [], []
    for side, scale, larger in zip(sides, scales, [*scales[1:], 1.0], strict=True):
        middle = (np.arange(side) + 0.5) / side
        y, x = np.meshgrid(middle, middle, indexing="ij")
        centres.append(np.stack([x.ravel(), y.ravel()], axis=1).repeat(PER_CELL, axis=0))
        sizes.append(np.tile(np.minimum(_shapes(scale, larger), 1.0), (side * side, 1)))
    pixels = (np.concatenate(parts) * resolution for parts in (centres, sizes))
    return tuple(part.astype(np.float32) for part in pixels)


def _shapes(scale: float, larger: float) -> list[tuple[float, float]]:
    """Return width and height of the boxes of one cell, as fractions of the input."""
    between = sqrt(scale * larger)
    shapes = [(scale, scale), (between, between)]
    for ratio in ASPECT_RATIOS:
        long, short = scale * sqrt(ratio), scale / sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return shapes
