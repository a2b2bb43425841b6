"""Convolutions of small maps as products, where torch's own are slow.

Milliseconds on one core of an x86 server, for a batch of 128 and both directions, of torch's own
and of these. Depthwise, kernel 5x5: 96 channels of 4x4 pixels 29 and 3, 240 of 2x2 38 and 3, 576
of 1x1 53 and 1; kernel 3x3: 96 of 2x2 10 and 1, of 1x1 8 and 0.4. Pointwise: 16 to 72 channels of
8x8 pixels 6.4 and 3.6, 48 to 288 of 2x2 1.8 and 1.2, 96 to 576 of 1x1 3.1 and 1.1; on 14x14 and
more torch's own is the faster one.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's users call it

Sizes = tuple[int, int]

_MOST_PIXELS = 64  # of a map, for a pointwise convolution
_MOST_PAIRS = 16  # of input and output pixels, which are multiplied one by one


def is_small_depthwise(x: Any, weight: Any, groups: int) -> bool:
    """Say whether a depthwise convolution is better computed here."""
    if x.ndim != 4 or not groups == x.shape[1] == weight.shape[0] != 1:
        return False
    return bool(x.shape[2] * x.shape[3] < weight.shape[2] * weight.shape[3])


def is_small_pointwise(x: Any, weight: Any, groups: int) -> bool:
    """Say whether a pointwise convolution, of stride 1 and without padding, is."""
    if x.ndim != 4 or groups != 1 or weight.shape[2:] != (1, 1):
        return False
    return bool(x.shape[2] * x.shape[3] <= _MOST_PIXELS)


def pointwise(x: Any, weight: Any, bias: Any) -> Any:
    """Convolve each pixel.

    Args:
        x: maps, (N, C, H, W).
        weight: (K, C, 1, 1).
        bias: (K,), or None.
    """
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def depthwise(
    x: Any, weight: Any, strides: Sizes, pads: tuple[int, int, int, int], dilations: Sizes
) -> Any:
    """Convolve each channel with a kernel of its own.

    Args:
        x: maps, (N, C, H, W).
        weight: kernels, (C, 1, KH, KW).
        strides: steps down and to the right.
        pads: zeros above, left, below and right of a map.
        dilations: distances of a kernel's rows and columns.
    """
    count, channels, height, width = x.shape
    kernel = (weight.shape[2], weight.shape[3])
    taps, size = _taps((height, width), kernel, strides, pads, dilations)
    taps = taps.to(x.device)
    flat = torch.cat([weight.reshape(channels, -1), weight.new_zeros(channels, 1)], 1)
    if taps.numel() <= _MOST_PAIRS:
        rows = x.permute(0, 2, 3, 1).reshape(count, 1, height * width, channels)
        y = (rows * flat.t()[taps]).sum(2)  # N, out, C
        return y.reshape(count, *size, channels).permute(0, 3, 1, 2)
    rows = x.permute(1, 0, 2, 3).reshape(channels, count, height * width).contiguous()
    y = torch.bmm(rows, flat[:, taps].transpose(1, 2))  # C, N, out
    if y.requires_grad:
        y.register_hook(_contiguous)
    y = y.reshape(channels, count, *size)
    return y.permute(1, 0, 2, 3).contiguous(memory_format=torch.channels_last)


def _contiguous(gradient: Any) -> Any:
    """Lay a gradient out for a batched product, which takes others matrix by matrix."""
    return gradient.contiguous()


@lru_cache(maxsize=256)
def _taps(
    size: Sizes, kernel: Sizes, strides: Sizes, pads: tuple[int, int, int, int], dilations: Sizes
) -> tuple[Any, Sizes]:
    """Return which weight of a kernel each pair of output and input pixel has, and the size.

    Pairs without one have the number behind the last weight.
    """
    axes = []
    made = []
    for axis in range(2):
        reach = (kernel[axis] - 1) * dilations[axis]
        total = size[axis] + pads[axis] + pads[axis + 2]
        outputs = (total - reach - 1) // strides[axis] + 1
        begins = torch.arange(outputs)[:, None] * strides[axis] - pads[axis]
        distance = torch.arange(size[axis])[None] - begins
        meets = (distance >= 0) & (distance <= reach) & (distance % dilations[axis] == 0)
        axes.append((distance.div(dilations[axis], rounding_mode="floor"), meets))
        made.append(outputs)
    (rows, row_meets), (columns, column_meets) = axes
    index = rows[:, None, :, None] * kernel[1] + columns[None, :, None, :]
    meets = row_meets[:, None, :, None] & column_meets[None, :, None, :]
    nothing = kernel[0] * kernel[1]
    taps = torch.where(meets, index, nothing).reshape(made[0] * made[1], size[0] * size[1])
    return taps, (made[0], made[1])
