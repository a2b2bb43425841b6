"""onnxruntime as the reference, and the distance to it."""

import math

import numpy as np
import onnx
import pytest
from onnxruntime import GraphOptimizationLevel as Level

from mbv3c.errors import ModelError
from mbv3c.parity.inputs import inputs_of, parity_inputs
from mbv3c.parity.reference import error_of_range, run, run_reference, session
from mbv3c.parity.scales import scale_of


def graph(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def test_runs_a_model() -> None:
    opened = session(graph("g (float[3] x) => (float[3] y) { y = Neg(x) }"))
    np.testing.assert_array_equal(run(opened, np.array([1, -2, 3], np.float32))[0], [-1, 2, -3])


def test_feeds_the_input_that_is_no_initialiser() -> None:
    opened = session(
        graph("g (float k, float[2] x) => (float[2] y) <float k = {5}> { y = Add(x, k) }")
    )
    np.testing.assert_array_equal(run(opened, np.array([1, 2], np.float32))[0], [6, 7])


def test_gives_output_and_spread_of_every_input(small: onnx.ModelProto) -> None:
    inputs = parity_inputs((1, 3, 224, 224))
    opened = session(small)
    references = list(run_reference(small, inputs))
    assert len(references) == len(inputs)
    for x, (reference,) in zip(inputs, references, strict=True):
        np.testing.assert_array_equal(reference.output, run(opened, x)[0])
    # Optimisation regroups sums, so it shows; it is rounding, so it stays small.
    assert 0 < max(reference.spread for (reference,) in references) < 1e-4


def test_a_model_that_leaves_nothing_to_round_spreads_by_the_last_bits_of_its_input() -> None:
    model = graph("g (float[3] x) => (float[3] y) { y = Neg(x) }")
    ((reference,),) = run_reference(model, [np.array([1, 2, 3], np.float32)])
    assert 0 < reference.spread <= 2**-23  # a unit in the last place of 3, over a range of 2


def test_a_model_of_integers_has_no_spread() -> None:
    model = graph("g (uint8[3] x) => (float[3] y) { y = Cast <to = 1> (x) }")
    ((reference,),) = run_reference(model, [np.array([1, 2, 3], np.uint8)])
    assert reference.spread == 0


def test_last_bits_that_decide_widen_the_tolerance() -> None:
    """Where numbers cancel, nobody can say more than the last bits of the input do."""
    model = graph("g (float[64] x) => (float[64] y) <float one = {1}> { y = Sub(x, one) }")
    x = (1 + np.linspace(0, 1e-3, 64)).astype(np.float32)
    ((reference,),) = run_reference(model, [x])
    assert 1e-5 < reference.spread < 1e-3


def test_floats_behind_integers_may_move_by_steps() -> None:
    """Neither the quantized output nor the one that reads the input as it is: they have none."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8] x) => (float[1, 8] a, float[1, 8] b, float[1, 8] c)
        <float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = Sigmoid(a) c = Sigmoid(x)
        }"""
    (outputs,) = run_reference(onnx.parser.parse_model(text), [np.ones((1, 8), np.float32)])
    assert [round(output.rounding * 255) for output in outputs] == [0, 2, 0]


def test_gives_every_output_by_name_with_its_class_axis() -> None:
    model = graph(
        "g (float[1, 2, 4] x) => (float[1, 2, 4] boxes, float[1, 8] scores)"
        "{ boxes = Neg(x) scores = Flatten(x) }"
    )
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    ((boxes, scores),) = run_reference(model, [x])
    assert (boxes.name, boxes.class_axis) == ("boxes", None)
    assert (scores.name, scores.class_axis) == ("scores", 1)
    np.testing.assert_array_equal(boxes.output, -x)
    np.testing.assert_array_equal(scores.output, x.reshape(1, 8))


def test_a_model_that_onnxruntime_refuses() -> None:
    with pytest.raises(ModelError, match=r"onnxruntime cannot load the model: .*Relux"):
        session(graph("g (float[3] x) => (float[3] y) { y = Relux(x) }"))


def test_a_level_that_cannot_load_a_model_excuses_nothing() -> None:
    """onnxruntime pushes a step through this pool, of another type than its zero point."""
    text = """<ir_version: 10, opset_import: ["" : 22]>
        g (float[1, 2, 4, 4] x) => (float[1, 2, 2, 2] y) <float s = {0.05}, int8 z = {3}> {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
            y = Sigmoid (m)
        }"""
    model = onnx.parser.parse_model(text)
    with pytest.raises(ModelError, match="does not match y_zero_point"):
        session(model, Level.ORT_ENABLE_ALL)
    ((y,),) = run_reference(model, inputs_of(model)[:1])
    assert y.spread == 0


def test_a_model_with_two_inputs() -> None:
    opened = session(
        graph("g (float[3] x, int64[3] z) => (float[3] y) { w = Cast <to = 1> (z) y = Sub(x, w) }")
    )
    x, z = np.array([1, 2, 3], np.float32), np.array([1, 1, 1], np.int64)
    (y,) = run(opened, (x, z))
    assert y.tolist() == [0, 1, 2]


RANGE_OF_TEN = np.array([[0.0, 2.0, 10.0]], np.float32)


@pytest.mark.parametrize(
    ("y", "error"),
    [
        ([[0.0, 2.0, 10.0]], 0.0),
        ([[0.0, 2.5, 10.0]], 0.05),
        ([[1.0, 2.5, 8.0]], 0.2),
        ([[0.0, 2.0, math.nan]], math.inf),
        ([[0.0, 2.0, math.inf]], math.inf),
        ([[0.0, 2.0]], math.inf),
        ([0.0, 2.0, 10.0], math.inf),
    ],
)
def test_error_of_range(y: list[object], error: float) -> None:
    assert error_of_range(np.array(y, np.float32), RANGE_OF_TEN) == pytest.approx(error)


def test_a_reference_that_is_not_finite_is_no_reference() -> None:
    broken = np.array([1.0, math.nan], np.float32)
    assert error_of_range(broken, broken) == math.inf


def test_a_reference_without_a_range_allows_no_error() -> None:
    constant = np.array([2.0, 2.0], np.float32)
    assert error_of_range(constant, constant) == 0
    assert error_of_range(np.nextafter(constant, np.float32(3)), constant) == math.inf


def outputs_of(*ends: tuple[float, ...]) -> list[np.ndarray]:
    return [np.array([values], np.float32) for values in ends]


def made_by(operator: str) -> onnx.ModelProto:
    return graph(f"g (float[1, 3] x) => (float[1, 3] y) {{ y = {operator}(x) }}")


@pytest.mark.parametrize(
    ("values", "operator", "scale"),
    [
        (outputs_of((1,), (4,), (-2,)), "Neg", 6),  # one number has a range over inputs
        (outputs_of((3, 1), (2, 0)), "Neg", 3),
        (outputs_of((7, 7), (7, 7)), "Neg", 7),  # a constant is measured by its size
        (outputs_of((0, 0), (0, 0)), "Neg", 1),
        (outputs_of((1e-9, 2e-9), (0, 0)), "Sigmoid", 1e-3),  # a score of nearly 0 everywhere
        (outputs_of((np.nan, 1), (5, np.inf)), "Neg", 4),
    ],
)
def test_the_scale_of_errors_is_what_an_output_takes_over_inputs(
    values: list[np.ndarray], operator: str, scale: float
) -> None:
    assert scale_of(made_by(operator), "y", values) == pytest.approx(scale)


def test_channels_of_other_magnitudes_have_scales_of_their_own() -> None:
    boxes = np.array([[[0, 0, 0.1, 5], [320, 160, 0.9, 5]]], np.float32)
    scale = scale_of(made_by("Neg"), "y", [boxes])
    assert scale.shape == (1, 1, 4)
    np.testing.assert_allclose(scale.ravel(), [320, 160, 0.8, 320])  # the last one is constant
    wrong = boxes.copy()
    wrong[0, 1, 2] = 0.86
    assert error_of_range(wrong, boxes, scale) == pytest.approx(0.05)
    assert error_of_range(wrong, boxes) < 2e-4


def test_arithmetic_in_half_precision_leaves_half_precisions_rounding() -> None:
    text = """
        g (float[1, 4] x) => (float[1, 4] y) {
            h = Cast <to = 10> (x)
            t = Tanh (h)
            y = Cast <to = 1> (t)
        }
    """
    ((half,),) = run_reference(graph(text), [np.ones((1, 4), np.float32)])
    ((full,),) = run_reference(made_by("Tanh"), [np.ones((1, 3), np.float32)])
    assert (half.rounding, full.rounding) == (2e-2, 0.0)


def test_what_onnxruntime_has_no_kernel_for_is_named() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64[4] x) => (double[4, 5] y)
        <int64 depth = {5}, double[2] values = {0, 1}> { y = OneHot(x, depth, values) }"""
    model = onnx.parser.parse_model(text)
    with pytest.raises(ModelError, match=r"no kernel of OneHot for the types .*→ y"):
        session(model)
