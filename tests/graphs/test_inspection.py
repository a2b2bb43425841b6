"""Costs of layers and peak memory, against published totals and sums by hand."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.graphs.count import Counts, count, inspect
from mbv3c.passes import run_pipeline
from mbv3c.passes.simplify import simplify

# torchvision's mobilenet_v3_large and _small at 1000 classes and 224 pixels.
PUBLISHED = {
    "mobilenet_v3_large": Counts(params=5_483_032, madds=216_589_760),
    "mobilenet_v3_small": Counts(params=2_542_856, madds=56_510_400),
}
MAP = 4 * 112 * 112  # bytes of one channel after the stem

# Where the peak is. Small: behind the stem, x · clip needs x, the clip's output and its own.
# Large: the first expansion, 64 channels before and after BatchNormalization.
PEAKS = {"mobilenet_v3_large": 2 * 64 * MAP, "mobilenet_v3_small": 3 * 16 * MAP}


def graph(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """Read a graph in ONNX text; weights come as keywords, and their values do not matter."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    return model


def test_totals_are_the_published_ones(network: onnx.ModelProto) -> None:
    inspected = inspect(network)
    assert inspected.totals == PUBLISHED[network.graph.name]
    assert inspected.peak_activation_bytes == PEAKS[network.graph.name]


def test_layers_sum_to_the_totals(network: onnx.ModelProto) -> None:
    optimized, _ = run_pipeline(network)
    for model in (network, optimized):
        inspected = inspect(model)
        assert [layer.name for layer in inspected.layers] == [n.name for n in model.graph.node]
        assert inspected.totals == count(model)
        assert sum(layer.params for layer in inspected.layers) == inspected.totals.params
        assert sum(layer.madds for layer in inspected.layers) == inspected.totals.madds


def test_one_layer_of_each_kind(large: onnx.ModelProto) -> None:
    layers = {layer.name: layer for layer in inspect(large).layers}
    stem = layers["features.0.conv"]
    assert (stem.operator, stem.output_shape) == ("Conv", (1, 16, 112, 112))
    assert (stem.params, stem.madds) == (16 * 27, 16 * 27 * 112 * 112)
    assert stem.activation_bytes == 16 * MAP
    norm = layers["features.0.bn"]
    assert (norm.params, norm.madds, norm.activation_bytes) == (32, 0, 16 * MAP)
    logits = layers["classifier.3"]
    assert (logits.params, logits.madds) == (1281 * 1000, 1280 * 1000)
    assert logits.activation_bytes == 4000


def test_a_shared_weight_counts_where_it_is_first_used() -> None:
    model = graph(
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) y = Conv(a, w) }",
        w=(4, 4, 1, 1),
    )
    inspected = inspect(model)
    assert [layer.params for layer in inspected.layers] == [16, 0]
    assert inspected.totals == Counts(16, 2 * 4 * 4 * 64)


def test_constants_are_no_layers_and_unnamed_nodes_have_their_output_s_name() -> None:
    model = graph("""
        g (float[1,4] x) => (float[1,4] y) {
            one = Constant <value_float = 1.0> ()
            y = Add(x, one)
        }
    """)
    assert [layer.name for layer in inspect(model).layers] == ["y"]
    assert inspect(model).peak_activation_bytes == 32


def test_peak_of_a_gate_by_hand() -> None:
    """Alive, in bytes: x a | a b | b s | b s g | b g m | m y."""
    model = graph(
        """
        g (float[1,4,8,8] x) => (float[1,8,1,1] y) {
            a = Conv(x, w)
            b = Relu(a)
            s = GlobalAveragePool(b)
            g = Sigmoid(s)
            m = Mul(b, g)
            y = GlobalAveragePool(m)
        }
        """,
        w=(8, 4, 1, 1),
    )
    x, wide, small = 4 * 4 * 64, 4 * 8 * 64, 4 * 8
    alive = [
        x + wide,
        wide + wide,
        wide + small,
        wide + small + small,
        wide + small + wide,
        wide + small,
    ]
    assert inspect(model).peak_activation_bytes == max(alive) == 4128


@pytest.mark.parametrize(
    ("text", "peak"),
    [
        # x is needed at the end, so it is alive all the time.
        (
            "g (float[8] x) => (float[8] y) { a = Relu(x) b = Relu(a) y = Add(b, x) }",
            3 * 32,
        ),
        # An output that is there early stays to the end.
        (
            "g (float[8] x) => (float[8] y, float[8] z) "
            "{ y = Relu(x) a = Relu(x) b = Relu(a) z = Relu(b) }",
            3 * 32,
        ),
        # What nobody uses is alive while it is made.
        ("g (float[8] x) => (float[8] y) { a = Relu(x) b = Relu(x) y = Neg(x) }", 2 * 32),
        # Types count: fp16 and bool beside fp32.
        (
            "g (float[8] x) => (bool[8] y) "
            "{ h = Cast <to = 10> (x) zero = Constant <value_float = 0.0> () "
            "z = Cast <to = 10> (zero) y = Greater(h, z) }",
            8 * 4 + 8 * 2,
        ),
        # The graph inside of an If reads a: it is alive until then.
        (
            """
            g (float[8] x) => (float[8] y) {
                yes = Constant <value = bool {1}> ()
                a = Relu(x)
                b = Relu(x)
                c = Relu(b)
                y = If (yes) <
                    then_branch = t () => (float[8] p) { p = Add(a, c) },
                    else_branch = e () => (float[8] q) { q = Add(c, c) }
                >
            }
            """,
            3 * 32,
        ),
    ],
    ids=["residual", "early output", "unused", "types", "subgraph"],
)
def test_peak_by_hand(text: str, peak: int) -> None:
    assert inspect(graph(text)).peak_activation_bytes == peak


def test_shape_arithmetic_is_followed() -> None:
    """What exporters write for x.view(x.size(0), -1)."""
    model = graph("""
        g (float[2,3,4,4] x) => (float[2,48] y) {
            zero = Constant <value = int64 {0}> ()
            rest = Constant <value = int64[1] {-1}> ()
            axes = Constant <value = int64[1] {0}> ()
            s = Shape(x)
            n = Gather <axis = 0> (s, zero)
            v = Unsqueeze(n, axes)
            t = Concat <axis = 0> (v, rest)
            a = Reshape(x, t)
            y = Relu(a)
        }
    """)
    layers = {layer.name: layer for layer in inspect(model).layers}
    assert layers["a"].output_shape == (2, 48)
    assert layers["s"].activation_bytes == 4 * 8


def test_computed_padding_takes_the_simplified_model() -> None:
    """As timm's `tf_*` models are exported: the amounts are arithmetic over constants."""
    model = graph("""
        g (float[1,1,5,5] x) => (float[1,1,n,m] y) {
            before = Constant <value = int64[4] {0, 0, 1, 1}> ()
            two = Constant <value = int64[1] {2}> ()
            zero = Constant <value = int64[1] {0}> ()
            after = Mul(before, two)
            both = Concat <axis = 0> (before, after)
            i = Cast <to = 1> (both)
            c = Ceil(i)
            pads = Cast <to = 7> (c)
            a = Pad(x, pads)
            b = Relu(a)
            y = Neg(b)
        }
    """)
    with pytest.raises(ModelError, match="shape of 'a' does not follow"):
        inspect(model)
    inspected = inspect(model, simplify(model)[0])
    layers = {layer.name: layer for layer in inspected.layers}
    assert layers["b"].output_shape == layers["y"].output_shape == (1, 1, 8, 8)
    assert inspected.peak_activation_bytes == 2 * 4 * 64


def test_an_unknown_shape_is_named() -> None:
    model = graph("g (float[4,4] x) => (int64[2,n] y) { a = NonZero(x) y = Identity(a) }")
    with pytest.raises(ModelError, match="shape of 'a' does not follow from the graph"):
        inspect(model)
