"""Small maps: the product computes what conv2d computes, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mbv3c.training.depthwise import depthwise, takes

ENDS, AROUND, NONE = (0, 0, 1, 1), (2, 2, 2, 2), (0, 0, 0, 0)
CASES = [
    ((1, 1), 5, 1, AROUND, 1),
    ((2, 2), 5, 2, AROUND, 1),
    ((4, 3), 5, 1, AROUND, 1),
    ((4, 3), 3, 2, ENDS, 1),
    ((2, 2), 3, 1, AROUND, 2),
    ((5, 6), 3, 2, NONE, 2),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "pads", "dilation"), CASES)
def test_values_and_gradients_are_those_of_conv2d(
    size: tuple[int, int], kernel: int, stride: int, pads: tuple[int, int, int, int], dilation: int
) -> None:
    torch.manual_seed(0)
    channels, (top, left, bottom, right) = 4, pads
    given = torch.randn(3, channels, *size, dtype=torch.float64)
    weights = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64)
    found = []
    for own in (True, False):
        x, w = given.clone().requires_grad_(), weights.clone().requires_grad_()
        if own:
            y = depthwise(x, w, (stride, stride), pads, (dilation, dilation))
        else:
            padded = F.pad(x, (left, right, top, bottom))
            y = F.conv2d(padded, w, None, stride, 0, dilation, channels)
        (y * torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
        found.append((y.detach(), x.grad, w.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "weight", "groups", "taken"),
    [
        ((8, 16, 4, 4), (16, 1, 5, 5), 16, True),
        ((8, 16, 5, 5), (16, 1, 5, 5), 16, False),
        ((8, 16, 2, 2), (16, 1, 3, 3), 16, True),
        ((8, 16, 1, 1), (16, 1, 1, 1), 16, False),
        ((8, 16, 2, 2), (16, 2, 3, 3), 8, False),
        ((8, 1, 2, 2), (1, 1, 3, 3), 1, False),
    ],
)
def test_it_is_for_maps_of_fewer_pixels_than_the_kernel(
    shape: tuple[int, ...], weight: tuple[int, ...], groups: int, taken: bool
) -> None:
    assert takes(torch.zeros(shape), torch.zeros(weight), groups) is taken
