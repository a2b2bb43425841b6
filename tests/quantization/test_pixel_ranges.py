"""Pixels have their own steps, whatever calibration has seen."""

import numpy as np
import pytest

from mbv3c.quantization.ranges import Range, pixel_ranges
from tests.onnx_text import graph

TEXT = """
    g (uint8[1, 4, 4, 3] x) => (float[1, 3, 4, 4] y) {
        c = Cast<to = 1>(x)
        t = Transpose<perm = [0, 3, 1, 2]>(c)
        s = Conv<group = 3>(t, w, b)
        y = Relu(s)
    }
"""


def ranges(shifts: list[float], weight: float = 1) -> dict[str, Range]:
    weights = np.full((3, 1, 1, 1), weight, np.float32)
    return pixel_ranges(graph(TEXT, w=weights, b=np.array(shifts, np.float32)))


def test_moved_pixels_have_steps_of_one() -> None:
    found = ranges([0, 0, 0], weight=2)
    assert found == {"c": Range(0, 255), "t": Range(0, 255)}
    assert pixel_ranges(graph(TEXT.replace("uint8", "int8"), w=np.ones((3, 1, 1, 1), np.float32),
                              b=np.zeros(3, np.float32)))["t"] == Range(-128, 127)  # fmt: skip


@pytest.mark.parametrize("shifts", [[-127.5] * 3, [-123.675, -116.28, -103.53], [-0.5, 3, 3]])
def test_no_shifted_pixel_is_cut_off_or_a_half(shifts: list[float]) -> None:
    found = ranges(shifts)["s"]
    step = (found.high - found.low) / 255
    values = (np.arange(256)[:, None] + shifts) / step
    assert found.low <= min(shifts)
    assert found.high >= 255 + max(shifts)
    assert step <= 1.03 * (255 + np.ptp(shifts)) / 255
    assert np.abs(values % 1 - 0.5).min() > 9e-5
    assert len(np.unique(np.rint(values[:, 0]))) >= 230  # of 256 pixels
