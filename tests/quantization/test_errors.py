import math

import numpy as np
import pytest

from mbv3c.quantization.errors import Distance


def distance(wanted: list[float], got: list[float]) -> Distance:
    found = Distance()
    found.add(np.array(wanted, np.float32), np.array(got, np.float32))
    return found


def test_a_tenth_of_noise_is_20_db() -> None:
    assert distance([10.0, 0.0], [10.0, 1.0]).snr_db == pytest.approx(20.0)


def test_equal_is_infinite() -> None:
    assert distance([1.0, 2.0], [1.0, 2.0]).snr_db == math.inf
    assert distance([0.0], [0.0]).snr_db == math.inf
    assert distance([0.0], [0.0]).cosine == 1.0


def test_noise_where_nothing_should_be_is_minus_infinite() -> None:
    assert distance([0.0], [1.0]).snr_db == -math.inf
    assert distance([0.0], [1.0]).cosine == 0.0


def test_the_opposite_has_cosine_minus_one_and_minus_6_db() -> None:
    found = distance([1.0, 2.0], [-1.0, -2.0])
    assert found.cosine == pytest.approx(-1.0)
    assert found.snr_db == pytest.approx(-20 * math.log10(2))


def test_inputs_add_up_to_one_vector() -> None:
    found = distance([3.0], [3.0])
    found.add(np.array([4.0], np.float32), np.array([3.0], np.float32))
    assert found.snr_db == pytest.approx(10 * math.log10(25))
    assert found.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
