"""What is known of a layer's results before any input."""

from itertools import product

import numpy as np
import pytest

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.cpu.integer_layers import IntegerLayer, LayerEnding, bounded
from mbv3c.targets.cpu.schedules.integer.arithmetic import Requantization, within


def layer(weights: np.ndarray, zero: int = 0) -> IntegerLayer:
    ending = LayerEnding((), 1.0, Requantization(zero))
    scales = np.ones(len(weights), np.float32)
    return IntegerLayer(Quantization(1.0, 0), weights, scales, ending)


@pytest.mark.parametrize("seed", range(20))
def test_no_input_takes_what_is_bounded_beyond_int16(seed: int) -> None:
    """All extreme inputs of three values, at factors about the limit."""
    random = np.random.default_rng(seed)
    weights = random.integers(-127, 128, (4, 3)).astype(np.int8)
    bias = random.integers(-20000, 20000, 4).astype(np.int32)
    inputs = np.array(list(product((-128, 127), repeat=3)))
    sums = inputs @ weights.T.astype(np.int64) + bias
    fits = (2**15 - 2) / np.abs(sums).max()
    for factor, small in ((0.999, True), (1.001, False)):
        scale = np.full(4, fits * factor, np.float32)
        assert bounded(layer(weights), bias, scale).small == small


def test_the_zero_point_counts() -> None:
    outputs = [within(Requantization(zero), 32700.0).small for zero in (0, 60, -128)]
    assert outputs == [True, True, False]
    assert not within(Requantization(0), float("inf")).small
    assert not within(Requantization(0), float("nan")).small
