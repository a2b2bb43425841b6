"""The numbers that a model takes as pixels are read off its first operators."""

import numpy as np
import onnx
import pytest

from mbv3c.graphs.frames import pixel_top
from tests.onnx_text import graph, random

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def model(steps: str, layout: str = "1, 3, 8, 8", **constants: np.ndarray) -> onnx.ModelProto:
    text = f"g (float[{layout}] x) => (float[1, 4, 6, 6] y) {{ {steps} y = Conv (n, w) }}"
    arrays = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    return graph(text, w=random(4, 3, 3, 3), **arrays)


@pytest.mark.parametrize(
    ("steps", "constants", "top"),
    [
        ("n = Relu (x)", {}, None),
        ("n = Identity (x)", {}, None),
        ("n = Mul (x, a)", {"a": 1.0}, None),
        ("m = Mul (x, a) n = Add (m, b)", {"a": 1 / 127.5, "b": -1.0}, 255),
        ("n = Div (x, a)", {"a": 255.0}, 255),
        ("n = Sub (x, a)", {"a": [[[123.7]], [[116.3]], [[103.5]]]}, 255),
        (
            "d = Div (x, a) m = Sub (d, b) n = Div (m, c)",
            {"a": 255.0, "b": MEAN.reshape(1, 3, 1, 1), "c": STD.reshape(1, 3, 1, 1)},
            255,
        ),
        (
            "m = Sub (x, b) n = Div (m, c)",
            {"b": MEAN.reshape(3, 1, 1), "c": STD.reshape(3, 1, 1)},
            1,
        ),
        ("m = Sub (x, b) n = Mul (m, a)", {"a": 2.0, "b": 0.5}, 1),
        ("m = Mul (a, x) n = Sub (b, m)", {"a": 2.0, "b": 1.0}, 1),
        (
            "c = Constant <value = float {255.0}> () n = Div (x, c)",
            {},
            255,
        ),
    ],
)
def test_nchw(steps: str, constants: dict[str, np.ndarray], top: float | None) -> None:
    assert pixel_top(model(steps, **constants)) == top


def test_nhwc() -> None:
    steps = "m = Mul (x, a) s = Sub (m, b) n = Transpose <perm = [0, 3, 1, 2]> (s)"
    assert pixel_top(model(steps, "1, 8, 8, 3", a=1 / 58, b=MEAN / STD)) == 255


def test_an_input_that_is_read_twice_was_normalised_before() -> None:
    steps = "m = Mul (x, a) n = Add (m, x)"
    assert pixel_top(model(steps, a=1 / 255)) is None


def test_numbers_along_a_side_are_no_channels() -> None:
    columns = np.full(8, 1 / 58, np.float32)
    steps = "m = Mul (x, a) n = Sub (m, b)"
    assert pixel_top(model(steps, a=columns, b=(MEAN / STD).reshape(3, 1, 1))) == 255
