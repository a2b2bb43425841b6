"""The constants of a convolution, channel by channel, to find them again in a command stream.

vela splits convolutions, changes the layout of kernels and pads them with zeros. But an output
channel stays a list of weights, a bias and a scale.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Weights that are not zero, as bytes of int16; bias; scale and shift, without common powers of 2.
Channel = tuple[bytes, int, int, int]


def channels_of(
    kernel: NDArray[Any],
    biases: Sequence[int] | NDArray[Any],
    scales: Sequence[int] | NDArray[Any],
    shifts: Sequence[int] | NDArray[Any],
) -> Iterator[Channel]:
    """Yield the output channels of a kernel O, H, W, I; each has a bias, a scale and a shift.

    A channel's sums become (sum + bias) * scale >> shift.
    """
    flat = kernel.reshape(len(kernel), -1).astype(np.int16)
    for weights, bias, scale, shift in zip(flat, biases, scales, shifts, strict=True):
        factor, by = int(scale), int(shift)
        zeros = min((factor & -factor).bit_length() - 1, by) if factor else 0
        yield weights[weights != 0].tobytes(), int(bias), factor >> zeros, by - zeros
