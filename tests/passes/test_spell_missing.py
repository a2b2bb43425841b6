"""Operators that TVM lacks, or computes otherwise, are written as others."""

import numpy as np
import onnx
import pytest

from mbv3c.parity.reference import run, session
from mbv3c.passes.spell_missing import spell_missing
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, ignores, operators, refuses

WAYS = ["", "<exclusive = 1>", "<reverse = 1>", "<exclusive = 1, reverse = 1>"]


def one(
    call: str, opset: int = 17, shape: str = "1, 4, 7, 6", **stored: np.ndarray
) -> onnx.ModelProto:
    text = f"g (float[1, 4, 7, 6] x) => (float[{shape}] y) {{ y = {call} }}"
    return graph(text, opset, **stored)


@pytest.mark.parametrize("operator", ["Cosh", "Sinh"])
def test_hyperbolic(operator: str) -> None:
    text = f"g (float[64] z) => (float[64] y) {{ x = Tanh(z) y = {operator}(x) }}"
    fires(spell_missing, graph(text))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64])
def test_powers_of_another_type(dtype: type) -> None:
    fires(spell_missing, one("Pow(x, two)", two=np.array(2, dtype)))


def test_powers_of_one_type_stay() -> None:
    ignores(spell_missing, one("Pow(x, two)", two=np.array(2, np.float32)))


@pytest.mark.parametrize("operator", ["Xor", "Equal"])
def test_two_masks(operator: str) -> None:
    text = (
        "g (float[4, 6] x) => (float[4, 6] y)"
        f"{{ a = Greater(x, row) b = Less(x, half) m = {operator}(a, b) y = Where(m, x, half) }}"
    )
    model = graph(text, half=np.array(0.5, np.float32), row=random(6))
    rewritten, _ = fires(spell_missing, model)
    assert operator not in operators(rewritten)


def test_numbers_that_are_equal_stay() -> None:
    text = "g (float[4] x) => (bool[4] y) { y = Equal(x, x) }"
    ignores(spell_missing, graph(text))


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("ways", WAYS)
def test_running_sums(ways: str, axis: int) -> None:
    fires(spell_missing, one(f"CumSum {ways} (x, axis)", axis=np.array(axis)))


def test_running_sums_that_are_long_stay() -> None:
    text = "g (float[3000] x) => (float[3000] y) { y = CumSum (x, axis) }"
    reason = refuses(spell_missing, graph(text, axis=np.array(0)))
    assert reason == "it adds 3000 numbers; up to 2048 are a product"


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("negative", [0, 1])
def test_infinities_of_one_sign(positive: int, negative: int) -> None:
    ways = f"<detect_positive = {positive}, detect_negative = {negative}>"
    text = f"g (float[4] x) => (bool[4] y) {{ y = IsInf {ways} (x) }}"
    model = graph(text)
    if positive and negative:
        ignores(spell_missing, model)
        return
    rewritten, _ = spell_missing(model)
    assert operators(rewritten) == ["Equal"]
    x = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
    np.testing.assert_array_equal(*(run(session(each), x)[0] for each in (rewritten, model)))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ("kernel_shape = [3, 2], p = 1", "1, 4, 5, 5"),
        ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", "1, 4, 3, 3"),
        (
            "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, pads = [1, 0, 0, 1]",
            "1, 4, 4, 3",
        ),
        ("kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1], p = 3", "1, 4, 7, 6"),
        ('kernel_shape = [4, 3], auto_pad = "SAME_LOWER"', "1, 4, 7, 6"),
        ('kernel_shape = [4, 3], auto_pad = "SAME_UPPER"', "1, 4, 7, 6"),
    ],
)
def test_pools_of_powers(attributes: str, shape: str) -> None:
    opset = 11 if "auto_pad" in attributes else 18
    fires(spell_missing, one(f"LpPool <{attributes}> (x)", opset, shape))


@pytest.mark.parametrize("padding", ["", ', auto_pad = "SAME_UPPER"', ', auto_pad = "SAME_LOWER"'])
@pytest.mark.parametrize(
    ("strides", "size"), [("2, 2", (14, 12)), ("2, 2", (13, 12)), ("3, 2", (22, 14))]
)
def test_transposed_with_an_output_shape(
    strides: str, size: tuple[int, int], padding: str
) -> None:
    attributes = f"strides = [{strides}], output_shape = [{size[0]}, {size[1]}]{padding}"
    shape = f"1, 2, {size[0]}, {size[1]}"
    model = one(f"ConvTranspose <{attributes}> (x, w)", shape=shape, w=random(4, 2, 3, 3))
    fires(spell_missing, model)


def test_transposed_without_one_stays() -> None:
    shape = "1, 2, 9, 8"
    ignores(spell_missing, one("ConvTranspose (x, w)", shape=shape, w=random(4, 2, 3, 3)))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int) -> None:
    """A number below 0 counts from the end; one that is no class has none."""
    shape = {0: "4, 2, 5", 1: "2, 4, 5", -1: "2, 5, 4"}[axis]
    text = f"g (int64[2, 5] x) => (float[{shape}] y) {{ y = OneHot <axis = {axis}> (x, d, v) }}"
    model = graph(text, d=np.array(4), v=np.array([3, -2], np.float32))
    rewritten, _ = spell_missing(model)
    assert "OneHot" not in operators(rewritten)
    x = np.array([[0, 1, 2, 3, -1], [-4, 4, -5, 7, 2]])
    np.testing.assert_array_equal(*(run(session(each), x)[0] for each in (rewritten, model)))


@pytest.mark.parametrize(
    ("attributes", "scale"),
    [
        ("axis = 0, block_size = 4", random(2, 6)),
        ("axis = 1", random(6)),
        ("", np.array(0.5, np.float32)),
    ],
)
@pytest.mark.parametrize("kind", [onnx.TensorProto.INT4, onnx.TensorProto.FLOAT8E4M3FN])
def test_weights_of_few_bits_are_stored_values(
    kind: int, attributes: str, scale: np.ndarray
) -> None:
    text = (
        "g (float[1, 8] x) => (float[1, 6] y)"
        f"{{ w = DequantizeLinear <{attributes}> (q, s) y = MatMul (x, w) }}"
    ).replace("<>", "")
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    codes = np.clip(np.rint(random(8, 6) * 4), -8, 7)
    model.graph.initializer.append(onnx.helper.make_tensor("q", kind, (8, 6), codes.ravel()))
    model.graph.initializer.append(onnx.numpy_helper.from_array(scale, "s"))
    rewritten, _ = spell_missing(model)
    assert operators(rewritten) == ["Identity", "MatMul"]
    x = random(1, 8)
    ours, theirs = (run(session(each), x)[0] for each in (rewritten, model))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
