"""The anchors, against the formula as published and against values worked out by hand."""

import numpy as np
import pytest

from mbv3c.graphs.anchors import anchors

SIDES = (20, 10, 5, 3, 2, 1)  # of SSDLite at 320 pixels

# Width and height in pixels, to 0.01: s = 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, then 1, times 320. The
# second square is sqrt(s s'), then s sqrt(2) by s / sqrt(2) and s sqrt(3) by s / sqrt(3), lying
# and standing. No side is longer than 320.
CELLS = [
    [(64, 64), (84.66, 84.66), (90.51, 45.25), (45.25, 90.51), (110.85, 36.95), (36.95, 110.85)],
    [(112, 112), (133.87, 133.87), (158.39, 79.20), (79.20, 158.39), (193.99, 64.66)],
    [(160, 160), (182.43, 182.43), (226.27, 113.14), (113.14, 226.27), (277.13, 92.38)],
    [(208, 208), (230.76, 230.76), (294.16, 147.08), (147.08, 294.16), (320, 120.09)],
    [(256, 256), (278.97, 278.97), (320, 181.02), (181.02, 320), (320, 147.80)],
    [(304, 304), (311.90, 311.90), (320, 214.96), (214.96, 320), (320, 175.51)],
]


def test_shapes_of_every_map() -> None:
    _, sizes = anchors(SIDES, 320)
    first = 0
    for side, cell in zip(SIDES, CELLS, strict=True):
        for place in (0, side * side - 1):
            at = first + 6 * place
            np.testing.assert_allclose(sizes[at : at + len(cell)], cell, atol=0.006)
        first += 6 * side * side
    assert first == len(sizes) == 3234


def test_centres_lie_in_the_middle_of_their_cells_row_by_row() -> None:
    centres, _ = anchors(SIDES, 320)
    assert centres[:6].tolist() == [[8, 8]] * 6
    assert centres[6].tolist() == [24, 8]  # the next one to the right
    assert centres[6 * 20].tolist() == [8, 24]  # the next row
    assert centres[2400].tolist() == [16, 16]
    assert centres[-1].tolist() == [160, 160]
    assert centres[-30].tolist() == [80, 80]  # the first of 2 x 2 cells


@pytest.mark.parametrize("sides", [SIDES, (4, 2), (7, 3, 1)])
def test_the_formula_of_the_paper(sides: tuple[int, ...]) -> None:
    """Equation 4 and what follows it, box by box."""
    m, wanted = len(sides), []
    scale = [0.2 + (0.95 - 0.2) / (m - 1) * k for k in range(m)] + [1.0]
    for k, side in enumerate(sides):
        for i in range(side):
            for j in range(side):
                for ratio in ("square", "larger", 2, 1 / 2, 3, 1 / 3):
                    if ratio == "square":
                        w = h = scale[k]
                    elif ratio == "larger":
                        w = h = (scale[k] * scale[k + 1]) ** 0.5
                    else:
                        w, h = scale[k] * ratio**0.5, scale[k] / ratio**0.5
                    wanted.append([(j + 0.5) / side, (i + 0.5) / side, min(w, 1), min(h, 1)])
    found = np.concatenate(anchors(sides, 100), axis=1)
    np.testing.assert_allclose(found, np.array(wanted) * 100, rtol=1e-6)
