"""The inputs of the parity check: the same everywhere, and of several contrasts."""

import numpy as np
import pytest

from mbv3c.parity.inputs import SCALES, parity_inputs

SHAPE = (1, 3, 224, 224)


def test_are_fp32_of_the_shape_and_the_same_each_time() -> None:
    first, second = parity_inputs((2, 3, 96, 96)), parity_inputs((2, 3, 96, 96))
    assert len(first) == len(SCALES)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.float32
        assert a.shape == (2, 3, 96, 96)
        np.testing.assert_array_equal(a, b)


def test_differ_from_each_other() -> None:
    inputs = parity_inputs(SHAPE)
    correlations = np.corrcoef([x.ravel() for x in inputs])
    off_diagonal = correlations[~np.eye(len(inputs), dtype=bool)]
    # The offsets per channel are shared by whole maps, so chance correlates a little.
    assert np.abs(off_diagonal).max() < 0.9


def test_scale_by_contrast() -> None:
    for scale, x in zip(SCALES, parity_inputs(SHAPE), strict=True):
        # Within a channel there is the noise alone, which is half of the variance.
        noise = x - x.mean(axis=(2, 3), keepdims=True)
        assert noise.std() == pytest.approx(scale / np.sqrt(2), rel=0.02)


def test_channels_differ_in_brightness() -> None:
    for x in parity_inputs(SHAPE):
        assert np.ptp(x.mean(axis=(2, 3))) > 0.05


@pytest.mark.parametrize("shape", [(1, 16), (4, 3, 7), (1, 3, 4, 4, 4)])
def test_suit_any_rank(shape: tuple[int, ...]) -> None:
    assert all(x.shape == shape and np.isfinite(x).all() for x in parity_inputs(shape))
