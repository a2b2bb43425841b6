"""What a quantizer left between its pairs becomes something that integers compute."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from mbv3c.passes.canonical_qdq import canonical_qdq
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, ignores, initializers, leaves_alone, operators

STEP, ZERO = np.array(0.05, np.float32), np.array(3, np.int8)
NORMALISED = """g (float[1, 4, 5, 5] x) => (float[1, 6, 5, 5] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    w = DequantizeLinear(wq, ws, wz)
    c = Conv(d, w, BIAS)
    [normal] n = BatchNormalization(c, scale, shift, mean, variance)
    r = QuantizeLinear(n, s, z)
    y = DequantizeLinear(r, s, z)
}"""


def normalised(bias: str = "b", **others: np.ndarray) -> onnx.ModelProto:
    integers = np.random.default_rng(0).integers(-127, 128, (6, 4, 1, 1)).astype(np.int8)
    arrays = {
        "s": STEP,
        "z": ZERO,
        "wq": integers,
        "ws": np.array(0.01, np.float32),
        "wz": np.array(0, np.int8),
        "b": random(6),
        "scale": random(6, seed=1),
        "shift": random(6, seed=2),
        "mean": random(6, seed=3),
        "variance": np.abs(random(6, seed=4)) + 0.5,
        **others,
    }
    used = NORMALISED.replace("BIAS", bias)
    return graph(used, **{k: v for k, v in arrays.items() if k != "b" or bias == "b"})


QAT = "f = QuantizeLinear(stored, ws, wz) w = DequantizeLinear(f, ws, wz)"
DIVIDED = "u = Div(c, by) [normal] n = BatchNormalization(u, "


def as_torch_trains(bias: str) -> onnx.ModelProto:
    """FakeQuantize on weights that were multiplied by what BatchNormalization will multiply."""
    text = NORMALISED.replace("BIAS", bias).replace("w = DequantizeLinear(wq, ws, wz)", QAT)
    text = text.replace("[normal] n = BatchNormalization(c, ", DIVIDED)
    arrays = {
        each.name: onnx.numpy_helper.to_array(each) for each in normalised(bias).graph.initializer
    }
    stored = arrays.pop("wq") * arrays["ws"]
    by = np.linspace(-0.5, 1.9, 6).astype(np.float32).reshape(1, 6, 1, 1)
    return graph(text, 13, **arrays, stored=stored, by=by)


@pytest.mark.parametrize("make", [normalised, as_torch_trains])
@pytest.mark.parametrize("bias", ["b", ""], ids=["bias", "none"])
def test_a_normalization_goes_into_the_steps(
    bias: str, make: Callable[[str], onnx.ModelProto]
) -> None:
    """Factors below 0 turn the signs of the integers."""
    rewritten, report = fires(canonical_qdq, make(bias), tolerance=1e-2)
    assert not {"BatchNormalization", "Div"}.intersection(operators(rewritten))
    assert "normal" in report.matched
    conv = next(node for node in rewritten.graph.node if node.op_type == "Conv")
    weights = next(node for node in rewritten.graph.node if conv.input[1] in node.output)
    assert initializers(rewritten)[weights.input[1]].shape == (6,)
    assert (initializers(rewritten)[weights.input[1]] > 0).all()


@pytest.mark.parametrize(
    "others",
    [
        {"scale": np.zeros(6, np.float32)},
        {"wq": np.full((6, 4, 1, 1), -128, np.int8)},  # which has no opposite
        {"wq": np.full((6, 4, 1, 1), 9, np.uint8), "wz": np.array(0, np.uint8)},
    ],
    ids=["zero", "lowest", "unsigned"],
)
def test_what_integers_cannot_hold_stays(others: dict[str, np.ndarray]) -> None:
    model = normalised(**others)
    assert "BatchNormalization" in operators(canonical_qdq(model)[0])


SWISH = """g (float[1, 4] x) => (float[1, 4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    GATE
    r = QuantizeLinear(h, s, z)
    y = DequantizeLinear(r, s, z)
}"""


@pytest.mark.parametrize(
    "gate",
    [
        "g1 = HardSigmoid <alpha = 0.16666667> (d) h = Mul(d, g1)",
        "a = Add(d, three) c = Clip(a, low, six) m = Mul(d, c) h = Div(m, six)",
    ],
    ids=["gated", "spelled out"],
)
@pytest.mark.parametrize(
    "opset", [13, 17]
)  # torch's quantized networks have 13, without HardSwish
def test_a_hardswish_between_pairs(gate: str, opset: int) -> None:
    numbers = {"three": 3, "low": 0, "six": 6} if "Clip" in gate else {}
    arrays = {name: np.array(value, np.float32) for name, value in numbers.items()}
    model = graph(SWISH.replace("GATE", gate), opset, s=STEP, z=ZERO, **arrays)
    rewritten, _ = fires(canonical_qdq, model, tolerance=1e-2)
    assert operators(rewritten).count("HardSwish") == 1
    assert "Mul" not in operators(rewritten)


def test_equal_pairs_of_a_tensor_become_one() -> None:
    text = """g (float[1, 4] x) => (float[1, 4] y) {
        r = Relu(x)
        q = QuantizeLinear(r, s, z) d = DequantizeLinear(q, s, z)
        p = QuantizeLinear(r, s, z) e = DequantizeLinear(p, s, z)
        o = QuantizeLinear(r, s, other) f = DequantizeLinear(o, s, other)
        m = Add(d, e) y = Add(m, f)
    }"""
    model = graph(text, s=STEP, z=ZERO, other=np.array(0, np.int8))
    rewritten, _ = fires(canonical_qdq, model, tolerance=0)
    assert operators(rewritten).count("QuantizeLinear") == 2


def test_a_graph_without_any_of_it_stays() -> None:
    ignores(canonical_qdq, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
    gate = "g1 = HardSigmoid <alpha = 0.2> (d) h = Mul(d, g1)"
    leaves_alone(canonical_qdq, graph(SWISH.replace("GATE", gate), s=STEP, z=ZERO))
