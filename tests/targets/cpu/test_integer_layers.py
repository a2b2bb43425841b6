"""What is known of a layer's results before any input."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.cpu.integer_layers import IntegerLayer, LayerEnding, rounded
from mbv3c.targets.cpu.schedules.integer.elementwise import IntegerElementwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization, within
from tests.targets.cpu.networks import AVX512, NEON

MOST = np.iinfo(np.int16).max


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
        assert rounded(layer(weights), bias, scale, AVX512)[0].small == small


def test_the_zero_point_counts() -> None:
    outputs = [within(Requantization(zero), 32700.0).small for zero in (0, 60, -128)]
    assert outputs == [True, True, False]
    assert not within(Requantization(0), float("inf")).small
    assert not within(Requantization(0), float("nan")).small


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("zero", [-128, -3, 127])
def test_what_is_small_stays_within_int16_for_every_input(zero: int, sign: int) -> None:
    """Also where a scale is negative, which ONNX does not forbid."""
    random = np.random.default_rng(abs(zero))
    seen = set()
    for _ in range(200):
        weights = random.integers(-128, 128, (3, 2)).astype(np.int8)
        bias = random.integers(-40_000, 40_000, 3).astype(np.int32)
        scale = (sign * random.uniform(0.05, 1.5, 3)).astype(np.float32)
        ending = LayerEnding((), 1.0, Requantization(zero))
        given = IntegerLayer(Quantization(1.0, 0), weights, scale, ending)
        small = rounded(given, bias, scale, NEON)[0].small
        corners = np.array(list(product((-128, 127), repeat=2)))
        sums = (corners @ weights.astype(np.int64).T + bias) * scale
        assert not small or np.abs(np.rint(sums) + zero).max() <= MOST
        seen.add(small)
    assert seen == {True, False}


def test_operands_of_a_negative_step_reach_as_far() -> None:
    a = Quantization(1.0, 0)
    shape = IntegerElementwise(1, 1, 1, "add", False, a, a, 0.001, Requantization(0))
    assert shape.reach == pytest.approx(510_000)
    for first, second, scale in product((1.0, -1.0), (1.0, -1.0), (0.001, -0.001)):
        signed = replace(
            shape, first=Quantization(first, 0), second=Quantization(second, 0), scale=scale
        )
        assert signed.reach == shape.reach
