"""The order of a frame's colours goes into the weights that read them."""

import numpy as np
import onnx
import pytest

from mbv3c.passes.fold_colours import fold_colours
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, ignores, initializers, operators, refuses

TOLERANCE = 1e-6  # sums of 27 products in another order
TEXT = """
    g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
        [swap] c = Gather<axis = 1>(x, order)
        [shift] s = Add(c, minus)
        [stem] y = Conv<pads = [1, 1, 1, 1]>(s, w)
    }
"""


def swapped(text: str = TEXT, **more: np.ndarray) -> onnx.ModelProto:
    arrays = {
        "order": np.array([1, 2, 0]),
        "minus": np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1),
        "w": random(4, 3, 3, 3),
    }
    used = {key: a for key, a in (arrays | more).items() if f", {key})" in text}
    return graph(text, **used)


def test_weights_and_shift_are_reordered() -> None:
    rewritten, report = fires(fold_colours, swapped(), TOLERANCE)
    assert operators(rewritten) == ["Add", "Conv"]
    assert report.matched == ("stem",)
    assert initializers(rewritten)["minus.reordered"].ravel().tolist() == [3, 1, 2]


def test_one_shift_for_all_stays_and_none_is_needed() -> None:
    rewritten, _ = fires(fold_colours, swapped(minus=np.float32(2)), TOLERANCE)
    assert operators(rewritten) == ["Add", "Conv"]
    alone = TEXT.replace("[shift] s = Add(c, minus)", "").replace("(s, w)", "(c, w)")
    assert operators(fires(fold_colours, swapped(alone), TOLERANCE)[0]) == ["Conv"]


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        (TEXT.replace("y)", "y, float[1, 3, 8, 8] c)", 1), {}, "intermediate 'c' is an output"),
        (TEXT.replace("<pads", "<group = 3, pads").replace("1, 4, 8", "1, 6, 8"),
         {"w": random(6, 1, 3, 3)}, "Conv reads its channels in groups"),
        (TEXT, {"minus": random(3, 8, 8)}, "not one number for each channel"),
    ],
)  # fmt: skip
def test_what_others_read_or_need_is_refused(
    text: str, more: dict[str, np.ndarray], reason: str
) -> None:
    assert reason in refuses(fold_colours, swapped(text, **more))


def test_a_choice_of_channels_is_no_order() -> None:
    ignores(fold_colours, swapped(order=np.array([0, 0, 1])))
