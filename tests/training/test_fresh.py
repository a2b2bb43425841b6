"""Fresh weights are spread by their fan-in, and a fresh last layer is for other classes."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import UsageError
from mbv3c.graphs.load import static_shape
from mbv3c.graphs.outputs import metadata_of, with_metadata
from mbv3c.training.classifier import classes_in
from mbv3c.training.fresh import fresh_weights, with_new_head
from mbv3c.training.trainable import trainable
from tests.onnx_text import graph, random


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_weights_are_spread_by_their_fan_in() -> None:
    model = graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 200] y) {
            a = Conv(x, stem) b = BatchNormalization(a, scale, bias, mean, variance)
            c = GlobalAveragePool(b) d = Flatten(c) e = Gemm<transB = 1>(d, rows)
            y = MatMul(e, columns)
        }""",
        stem=random(300, 3, 3, 3),
        **{name: np.abs(random(300)) for name in ("scale", "bias", "mean", "variance")},
        rows=random(100, 300),
        columns=random(100, 200),
    )
    made = trainable(model, 2)
    weights = fresh_weights(made, 0)
    assert {name: array.shape for name, array in weights.items()} == {
        name: array.shape for name, array in stored(model).items()
    }
    for name, fan_in in (("stem", 27), ("rows", 300), ("columns", 100)):
        assert np.std(weights[name]) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
    for name, value in (("scale", 1), ("bias", 0), ("mean", 0), ("variance", 1)):
        assert (weights[name] == value).all()
    assert (weights["rows"] == fresh_weights(made, 0)["rows"]).all()
    assert (weights["rows"] != fresh_weights(made, 1)["rows"]).all()


HEADS = {
    "rows": ("y = Gemm<transB = 1>(a, w, b)", {"w": random(4, 192), "b": random(4)}, "w"),
    "columns": ("y = Gemm(a, w, b)", {"w": random(192, 4), "b": random(4)}, "w"),
    "sum": ("c = MatMul(a, w) y = Add(c, b)", {"w": random(192, 4), "b": random(4)}, "w"),
    "softmax": ("c = Gemm(a, w) y = Softmax(c)", {"w": random(192, 4)}, "w"),
}


@pytest.mark.parametrize("head", HEADS)
def test_another_last_layer_is_for_other_classes(head: str) -> None:
    text, arrays, weight = HEADS[head]
    model = graph(
        f"g (float[1, 3, 8, 8] x) => (float[1, 4] y) {{ a = Flatten(x) {text} }}", **arrays
    )
    model = with_metadata(model, {"mbv3c.class_names": '["a", "b", "c", "d"]', "kept": "yes"})
    before = model.SerializeToString()
    changed = with_new_head(model, 7)
    assert model.SerializeToString() == before
    assert static_shape(changed.graph.output[0]) == (1, 7)
    assert (classes_in(changed).count, metadata_of(changed)) == (7, {"kept": "yes"})
    axis = arrays[weight].shape.index(4)
    assert stored(changed)[weight].shape[axis] == 7
    assert np.std(stored(changed)[weight]) == pytest.approx(1 / np.sqrt(192), rel=0.1)
    assert (stored(changed).get("b", np.zeros(7)) == np.zeros(7)).all()


def test_a_convolution_may_be_the_last_layer() -> None:
    model = graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 4, 1, 1] y) {
            a = GlobalAveragePool(x) y = Conv(a, w)
        }""",
        w=random(4, 3, 1, 1),
    )
    assert classes_in(with_new_head(model, 9)).count == 9


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("b = Gemm(a, w) y = Relu(b)", "this one ends with Relu"),
        ("b = Gemm(a, w) c = Gemm(a, w) y = Add(b, c)", "this one ends with Add"),
        ("y = Flatten(x)", "this one ends with its input"),
    ],
)
def test_what_has_no_last_layer_is_refused(text: str, why: str) -> None:
    shape = "[1, 192]" if "Gemm" not in text else "[1, 4]"
    model = graph(
        f"g (float[1, 3, 8, 8] x) => (float{shape} y) {{ a = Flatten(x) {text} }}",
        w=random(192, 4),
    )
    with pytest.raises(UsageError, match=why):
        with_new_head(model, 7)
