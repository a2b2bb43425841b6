"""A frame's shift becomes a convolution of each channel by itself."""

import numpy as np
import onnx
import pytest

from mbv3c.passes.shift_to_conv import shift_to_conv
from tests.onnx_text import graph, random

TEXT = """
    g (uint8[1, 8, 8, 3] x) => (float[1, 4, 8, 8] y) {
        [cast] c = Cast<to = 1>(x)
        [moved] t = Transpose<perm = [0, 3, 1, 2]>(c)
        [shift] s = Add(t, minus)
        [stem] y = Conv<pads = [1, 1, 1, 1]>(s, w)
    }
"""
MEANS = np.array([-123.675, -116.28, -103.53], np.float32).reshape(1, 3, 1, 1)


def shifted(text: str = TEXT, minus: np.ndarray = MEANS) -> onnx.ModelProto:
    return graph(text, minus=minus, w=random(4, 3, 3, 3))


@pytest.mark.parametrize("minus", [MEANS, np.float32(-127.5)])
def test_every_channel_is_shifted_by_its_bias(minus: np.ndarray) -> None:
    model = shifted(minus=np.asarray(minus))
    rewritten, report = shift_to_conv(model)
    assert report.matched == ("shift",)
    onnx.checker.check_model(rewritten, full_check=True)
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    ours, theirs = (onnx.reference.ReferenceEvaluator(one).run(None, {"x": x})[0]
                    for one in (rewritten, model))  # fmt: skip
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-3)
    assert [node.op_type for node in rewritten.graph.node].count("Conv") == 2
    assert not shift_to_conv(rewritten)[1].changed


@pytest.mark.parametrize(
    ("text", "minus"),
    [
        (TEXT.replace("uint8", "int32"), MEANS),  # no pixels
        (TEXT.replace("[1, 8, 8, 3] x", "[1, 8, 8, 3] u").replace(
            "[cast]", "x = Abs(u) [cast]").replace("uint8", "int8"), MEANS),  # computed
        (TEXT, random(3, 8, 8)),
        (TEXT.replace("y = Conv", "z = Conv").replace(
            "}", "y0 = Add(z, z) r = ReduceMax<keepdims = 1>(s) y = Add(y0, r) }"), MEANS),
    ],
)  # fmt: skip
def test_all_else_stays(text: str, minus: np.ndarray) -> None:
    model = shifted(text, minus)
    assert shift_to_conv(model)[0] is model
