"""Compute a convolution in groups as convolutions of some of the channels, put side by side.

An Ethos-U multiplies 16 or more channels at a time, so neighbouring groups go together, with zeros
where a group does not see the channels of another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_A_TIME = 16  # channels


@dataclass(frozen=True)
class Part:
    """One of the convolutions.

    Attributes:
        first, count: the channels of the map that it sees.
        outputs: the channels of the result that it makes.
        weights: its weights, O, I, H, W.
    """

    first: int
    count: int
    outputs: slice
    weights: NDArray[Any]


def parts_of(weights: NDArray[Any], groups: int) -> Iterator[Part]:
    """Yield the convolutions for weights O, I of a group, H, W."""
    count, inputs, *kernel = weights.shape
    made = count // groups
    together = min(groups, -(-_AT_A_TIME // inputs))
    for first in range(0, groups, together):
        last = min(first + together, groups)
        dense = np.zeros(((last - first) * made, (last - first) * inputs, *kernel), weights.dtype)
        for index in range(last - first):
            own = slice(index * made, (index + 1) * made)
            start = (first + index) * made
            dense[own, index * inputs : (index + 1) * inputs] = weights[start : start + made]
        yield Part(
            first * inputs, (last - first) * inputs, slice(first * made, last * made), dense
        )
