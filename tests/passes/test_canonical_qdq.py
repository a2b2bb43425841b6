"""Pairs are int8 with zero points, whichever way they came; not a bit of the results changes."""

import numpy as np
import pytest

from mbv3c.passes.canonical_qdq import canonical_qdq
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, ignores, initializers, leaves_alone, operators

CONV = """
    g (float[1, 4, 5, 5] x) => (float[1, 8, 5, 5] y) {
        xq = QuantizeLinear (x, s, z)
        xd = DequantizeLinear (xq, s, z)
        WEIGHTS
        c = Conv (xd, w)
        cq = QuantizeLinear (c, s, z)
        y = DequantizeLinear (cq, s, z)
    }
"""
STEP = np.array(0.05, np.float32)
INTEGERS = np.random.default_rng(0).integers(-100, 100, (8, 4, 1, 1))
PER_CHANNEL = np.linspace(0.002, 0.01, 8).astype(np.float32)


def zero_points(arrays: dict[str, np.ndarray]) -> set[str]:
    return {str(array.dtype) for array in arrays.values() if array.dtype.kind in "iu"}


@pytest.mark.parametrize("zero", [0, 128, 200, 255])
def test_uint8_activations(zero: int) -> None:
    model = graph(
        CONV.replace("WEIGHTS", "w = DequantizeLinear <axis = 0> (wq, ws, wz)"),
        s=STEP,
        z=np.array(zero, np.uint8),
        wq=INTEGERS.astype(np.int8),
        ws=PER_CHANNEL,
        wz=np.zeros(8, np.int8),
    )
    rewritten, _ = fires(canonical_qdq, model, tolerance=0)
    used = {name for node in rewritten.graph.node for name in node.input}
    kept = {name: array for name, array in initializers(rewritten).items() if name in used}
    assert zero_points(kept) == {"int8"}


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-7)])
def test_a_zero_point_that_is_left_out(zero: np.int8) -> None:
    """It is 0, of uint8 behind a QuantizeLinear, of the integers' own type behind others."""
    text = CONV.replace("WEIGHTS", "w = DequantizeLinear (wq, ws)").replace("(x, s, z)", "(x, s)")
    text = text.replace("(xq, s, z)", "(xq, s)")
    arrays = {"wq": INTEGERS.astype(np.int8), "ws": np.array(0.01, np.float32)}
    rewritten, _ = fires(canonical_qdq, graph(text, s=STEP, z=np.array(zero), **arrays), 0)
    assert all(len(node.input) == 3 for node in rewritten.graph.node if node.op_type != "Conv")


@pytest.mark.parametrize(
    ("stored", "zero"),
    [
        (INTEGERS + 128, np.full(8, 128)),  # as onnxruntime's quantizer writes uint8
        (INTEGERS + 100, np.arange(97, 105)),  # asymmetric, and still within int8
    ],
)
def test_uint8_weights(stored: np.ndarray, zero: np.ndarray) -> None:
    model = graph(
        CONV.replace("WEIGHTS", "w = DequantizeLinear <axis = 0> (wq, ws, wz)"),
        s=STEP,
        z=np.array(3, np.int8),
        wq=stored.clip(0, 255).astype(np.uint8),
        ws=PER_CHANNEL,
        wz=zero.astype(np.uint8),
    )
    rewritten, _ = fires(canonical_qdq, model, tolerance=0)
    dequantized = next(node for node in rewritten.graph.node if node.output[0] == "w")
    integers, new_zero = (initializers(rewritten)[dequantized.input[i]] for i in (0, 2))
    assert (integers.dtype, new_zero.any()) == (np.dtype(np.int8), False)


def test_weights_that_need_nine_bits_keep_a_zero_point() -> None:
    stored = np.array([0, 255] * 16, np.uint8).reshape(8, 4, 1, 1)
    model = graph(
        CONV.replace("WEIGHTS", "w = DequantizeLinear (wq, ws, wz)"),
        s=STEP,
        z=np.array(3, np.int8),
        wq=stored,
        ws=np.array(0.01, np.float32),
        wz=np.array(100, np.uint8),
    )
    rewritten, _ = fires(canonical_qdq, model, tolerance=0)
    dequantized = next(node for node in rewritten.graph.node if node.output[0] == "w")
    assert initializers(rewritten)[dequantized.input[2]] == -28


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_weights_that_are_only_rounded(dtype: type) -> None:
    weights = (
        "q = QuantizeLinear <axis = 0> (wf, ws, wz) w = DequantizeLinear <axis = 0> (q, ws, wz)"
    )
    model = graph(
        CONV.replace("WEIGHTS", weights),
        s=STEP,
        z=np.array(3, np.int8),
        wf=random(8, 4, 1, 1),
        ws=PER_CHANNEL * 10,
        wz=np.full(8, 128 if dtype == np.uint8 else 0, dtype),
    )
    rewritten, _ = fires(canonical_qdq, model, tolerance=0)
    assert operators(rewritten).count("QuantizeLinear") == 2


def test_integers_that_are_an_output_stay() -> None:
    text = """
        g (float[1, 4] x) => (uint8[1, 4] q, float[1, 4] y) {
            q = QuantizeLinear (x, s, z)
            y = DequantizeLinear (q, s, z)
        }
    """
    leaves_alone(canonical_qdq, graph(text, s=STEP, z=np.array(128, np.uint8)))


def test_a_graph_in_floats_stays() -> None:
    ignores(canonical_qdq, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


def test_integers_that_a_branch_reads_stay() -> None:
    text = """
        g (float[1, 4] x) => (float[1, 4] y) <bool c = {1}> {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            e = If (c) <
                then_branch = t () => (float[1, 4] a) { a = Cast <to = 1> (q) },
                else_branch = f () => (float[1, 4] b) { b = Relu (d) }
            >
            y = Add (d, e)
        }
    """
    leaves_alone(canonical_qdq, graph(text, s=STEP, z=np.array(128, np.uint8)))


def test_names_that_are_taken() -> None:
    text = """
        g (float[1, 4] x) => (float[1, 4] y) {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            y = Add (d, t)
        }
    """
    model = graph(text, s=STEP, z=np.array(128, np.uint8), t=np.array(3, np.float32))
    for node in model.graph.node:
        node.input[:] = ["q.zero" if name == "t" else name for name in node.input]
    model.graph.initializer[2].name = "q.zero"
    fires(canonical_qdq, model, tolerance=0)
