"""What is computed in the place of a table is what the table holds."""

from dataclasses import replace

import numpy as np
import pytest

from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, RELU, Activation
from mbv3c.targets.cpu.integer_layers import activation_table
from mbv3c.targets.cpu.schedules.integer.gates import Gate, gate_for


def found(
    activation: Activation, read: Quantization, written: Quantization, low: int = -128
) -> tuple[Gate | None, np.ndarray, np.ndarray]:
    reached = np.arange(low, 128)
    entries = activation_table(activation, read, written)[reached & 255]
    sums = reached - read.zero_point
    gate = gate_for(activation, read.scale, written.scale, written.zero_point, sums, entries)
    return gate, sums, entries


@pytest.mark.parametrize("activation", [HARD_SWISH, HARD_SIGMOID], ids=["swish", "sigmoid"])
def test_all_entries_are_equal(activation: Activation) -> None:
    random, missing = np.random.default_rng(0), 0
    for _ in range(50):
        scale = float(np.float32(np.exp(random.uniform(-5.0, -1.0))))
        reach = scale * np.exp(random.uniform(-1.0, 0.3)) if activation.gated else 1 / 255
        read = Quantization(scale, int(random.integers(-128, 128)))
        written = Quantization(float(np.float32(reach)), int(random.integers(-128, 128)))
        gate, sums, entries = found(activation, read, written, int(random.integers(-128, 0)))
        missing += gate is None
        if gate is not None:
            np.testing.assert_array_equal(gate.results(sums.astype(np.float32)), entries)
    assert missing <= 5


def test_another_table_has_no_gate() -> None:
    read, written = Quantization(0.0517, -20), Quantization(0.0309, -110)
    gate, sums, entries = found(HARD_SWISH, read, written)
    assert gate is not None
    changed = entries.copy()
    changed[200] -= 1
    assert gate_for(HARD_SWISH, 0.0517, 0.0309, -110, sums, changed) is None
    assert gate_for(HARD_SWISH, 0.0417, 0.0309, -110, sums, entries) is None


def test_halves_of_round_numbers_stay_in_a_table() -> None:
    """The table divides where a gate multiplies: many results lie between two integers."""
    assert found(HARD_SWISH, Quantization(0.05, -20), Quantization(0.03, -110))[0] is None


def test_what_has_no_upper_bound_or_leaves_int16_has_no_gate() -> None:
    assert found(RELU, Quantization(0.1, 0), Quantization(0.1, -128))[0] is None
    assert found(HARD_SWISH, Quantization(1.0, 0), Quantization(1e-3, 0))[0] is None


def test_shapes_that_differ_in_numbers_alone_are_measured_once() -> None:
    gate = Gate(0.01, 0.5, 0.0, 1.0, True, 0.9, -3)
    assert gate.typical == replace(gate, slope=0.02, factor=1.1, zero=40).typical
    assert gate.typical != replace(gate, gated=False).typical
    assert gate.typical != replace(gate, zero=0).typical
