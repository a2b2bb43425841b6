"""Small maps: the products compute what conv2d computes, forwards and backwards."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mbv3c.training.small_maps import (
    depthwise,
    is_small_depthwise,
    is_small_pointwise,
    pointwise,
)

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
        found.append(_with_gradients(y, x, w))
    _check_equal(*found)


def _with_gradients(y: torch.Tensor, *given: torch.Tensor) -> list[torch.Tensor | None]:
    """Return a result, and the gradient of a sum of it by each tensor that it was made of."""
    (y * torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    return [y.detach(), *(each.grad for each in given)]


def _check_equal(
    ours: Sequence[torch.Tensor | None], theirs: Sequence[torch.Tensor | None]
) -> None:
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


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
    assert is_small_depthwise(torch.zeros(shape), torch.zeros(weight), groups) is taken


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
def test_pointwise_values_and_gradients_are_those_of_conv2d(*, has_bias: bool) -> None:
    torch.manual_seed(0)
    given = (torch.randn(3, 4, 2, 5), torch.randn(6, 4, 1, 1), torch.randn(6))
    found = []
    for convolve in (pointwise, F.conv2d):
        x, w, b = (each.double().requires_grad_() for each in given)
        y = convolve(x, w, b if has_bias else None)
        found.append(_with_gradients(y, x, w, *([b] if has_bias else [])))
    _check_equal(*found)


@pytest.mark.parametrize(
    ("shape", "weight", "groups", "taken"),
    [
        ((8, 16, 8, 8), (4, 16, 1, 1), 1, True),
        ((8, 16, 8, 9), (4, 16, 1, 1), 1, False),
        ((8, 16, 2, 2), (4, 16, 1, 3), 1, False),
        ((8, 16, 2, 2), (4, 8, 1, 1), 2, False),
        ((8, 16, 4), (4, 16, 1), 1, False),
    ],
)
def test_pointwise_is_for_maps_of_few_pixels(
    shape: tuple[int, ...], weight: tuple[int, ...], groups: int, taken: bool
) -> None:
    assert is_small_pointwise(torch.zeros(shape), torch.zeros(weight), groups) is taken


def test_gradients_arrive_where_only_one_side_is_trained() -> None:
    x, w = torch.randn(2, 4, 4, 4), torch.randn(4, 1, 5, 5)
    for left, right in ((True, False), (False, True), (False, False)):
        y = depthwise(
            x.clone().requires_grad_(left),
            w.clone().requires_grad_(right),
            (1, 1),
            (2, 2, 2, 2),
            (1, 1),
        )
        assert y.requires_grad == (left or right)
        if y.requires_grad:
            y.sum().backward()
