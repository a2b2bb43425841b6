"""What a Transpose moves, and what it would cost to lay an operand out anew."""

import numpy as np
import onnx_ir as ir
import pytest

from mbv3c.passes.layout import count_moving, lay_out, moves_only_ones, perm_of, untransposed
from tests.onnx_text import graph

NHWC = "g (float[1, 4, 1, 3] x) => (y) { t = Transpose <perm = [0, 2, 3, 1]> (x) y = Relu(t) }"


def read(text: str, **arrays: np.ndarray) -> ir.Graph:
    return ir.from_proto(graph(text.replace("(y)", "(float[a, b, c, d] y)"), **arrays)).graph


@pytest.mark.parametrize(
    ("shape", "only_ones"),
    [((1, 4, 1, 1), True), ((2, 4, 1, 1), True), ((1, 1, 5, 5), True), ((1, 4, 1, 3), False)],
)
def test_moves_only_ones(shape: tuple[int, ...], only_ones: bool) -> None:
    assert moves_only_ones(read(NHWC)[0], shape) is only_ones


def test_counts_those_that_move_data() -> None:
    assert count_moving(read(NHWC)) == 1
    assert count_moving(read(NHWC.replace("1, 4, 1, 3", "1, 4, 1, 1"))) == 0


def test_sees_the_transpose_above_a_tensor() -> None:
    found = read(NHWC)
    transposed = found[0].outputs[0]
    transposed.shape = ir.Shape((1, 1, 3, 4))
    assert perm_of(transposed) == (0, 2, 3, 1)
    assert untransposed(transposed) is found.inputs[0]
    assert perm_of(found[1].outputs[0]) is None


@pytest.mark.parametrize(
    ("shape", "laid_out"),
    [((4,), (1, 4, 1, 1)), ((3, 4), (1, 4, 1, 3)), ((2, 1, 3, 4), (2, 4, 1, 3)), ((), ())],
)
def test_lays_a_constant_out(shape: tuple[int, ...], laid_out: tuple[int, ...]) -> None:
    text = NHWC.replace("y = Relu(t)", "y = Mul(t, k)")
    found = read(text, k=np.ones(shape, np.float32))
    value = lay_out(found, found.initializers["k"], (0, 2, 3, 1))
    assert value is not None
    assert tuple(value.shape or ()) == laid_out


def test_does_not_lay_out_what_would_move_data() -> None:
    found = read(NHWC)
    assert lay_out(found, found.inputs[0], (0, 2, 3, 1)) is None
