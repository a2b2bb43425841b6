"""Parameters and multiply-adds, against those of torchvision and against sums by hand."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import Counts, count, inspect, tensor_shapes
from mbv3c.graphs.spec import ModelSpec

# torchvision's mobilenet_v3_large and _small at 1000 classes and 224 pixels.
PUBLISHED = {
    "mobilenet_v3_large": Counts(params=5_483_032, madds=216_589_760),
    "mobilenet_v3_small": Counts(params=2_542_856, madds=56_510_400),
}


def graph(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Read a graph in ONNX text; weights come as keywords, and their values do not matter."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    return model


def test_counts_are_the_published_ones(network: onnx.ModelProto) -> None:
    assert count(network) == PUBLISHED[network.graph.name]


def test_fewer_classes_and_a_larger_batch() -> None:
    counts = count(build_model(ModelSpec("small", classes=10, batch=2)))
    published = PUBLISHED["mobilenet_v3_small"]
    assert counts.params == published.params - 990 * (1024 + 1)
    assert counts.madds == 2 * (published.madds - 990 * 1024)


@pytest.mark.parametrize(
    ("text", "shapes", "counts"),
    [
        (
            """
            g (float[1, 4, 8, 8] x) => (float[1, 6, 4, 4] y) {
                y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b)
            }
            """,
            {"w": (6, 4, 3, 3), "b": (6,)},
            Counts(6 * 4 * 9 + 6, 6 * 4 * 4 * 4 * 9),
        ),
        (
            """
            g (float[2, 4, 8, 8] x) => (float[2, 4, 8, 8] y) {
                y = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)
            }
            """,
            {"w": (4, 1, 3, 3)},
            Counts(4 * 9, 2 * 4 * 8 * 8 * 9),
        ),
        (
            "g (float[3, 8] x) => (float[3, 5] y) { y = Gemm <transB = 1> (x, w) }",
            {"w": (5, 8)},
            Counts(40, 3 * 40),
        ),
        (
            "g (float[3, 8] x) => (float[3, 5] y) { y = Gemm(x, w, b) }",
            {"w": (8, 5), "b": (5,)},
            Counts(45, 3 * 40),
        ),
        (
            "g (float[2, 3, 8] x) => (float[2, 3, 5] y) { y = MatMul(x, w) }",
            {"w": (8, 5)},
            Counts(40, 6 * 40),
        ),
        (
            "g (float[3, 8] x) => (float[3] y) { y = MatMul(x, w) }",
            {"w": (8,)},
            Counts(8, 24),
        ),
        (
            "g (float[1, 4, 8] x) => (float[1, 4, 8] y) { y = BatchNormalization(x, s, b, m, v) }",
            {"s": (4,), "b": (4,), "m": (4,), "v": (4,)},
            Counts(8, 0),
        ),
        ("g (float[8] x) => (float[8] y) { y = Add(x, three) }", {"three": ()}, Counts(0, 0)),
    ],
    ids=["conv", "depthwise", "gemm, transposed", "gemm", "matmul", "vector", "batchnorm", "add"],
)
def test_sums_by_hand(text: str, shapes: dict[str, tuple[int, ...]], counts: Counts) -> None:
    assert count(graph(text, **shapes)) == counts


TWICE = """
    g (float[1, 4, 8, 8] x) => (float[1, 4, height, width] y) {
        a = Conv(x, w)
        y = Conv(a, w)
    }
"""


def test_a_shared_weight_counts_once_and_works_twice() -> None:
    assert count(graph(TWICE, w=(4, 4, 1, 1))) == Counts(16, 2 * 4 * 4 * 64)


def test_a_recurrent_layer_may_leave_out_its_first_output() -> None:
    text = """
    g (float[2, 1, 3] x) => (float[1, 1, 4] y) { , y = LSTM <hidden_size = 4> (x, w, r) }
    """
    (layer,) = inspect(graph(text, w=(1, 16, 3), r=(1, 16, 4))).layers
    assert (layer.name, layer.output_shape, layer.activation_bytes) == ("y", (1, 1, 4), 16)


def test_tensor_shapes_are_inferred() -> None:
    shapes = tensor_shapes(graph(TWICE, w=(4, 4, 3, 3)))
    assert shapes["w"] == (4, 4, 3, 3)
    assert shapes["a"] == (1, 4, 6, 6)
    assert shapes["y"] == (1, 4, 4, 4)
