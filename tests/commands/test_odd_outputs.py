"""Outputs that are constant, saturated or far from 0, and integers of 64 bits without a sign."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import mbv3c
from mbv3c.errors import Mbv3cError
from tests.onnx_text import graph, random

_CONV = "z = Conv <pads = [1, 1, 1, 1]> (x, w, b)"


def _conv(text: str, bias: float = 0.0, **more: np.ndarray) -> onnx.ModelProto:
    weights = {"w": random(8, 3, 3, 3) * 0.3, "b": np.full(8, bias, np.float32)}
    return graph(f"g (float[1, 3, 8, 8] x) => {text}".replace("CONV", _CONV), **weights, **more)


def far_from_0(offset: float) -> onnx.ModelProto:
    text = "(float[1, 8, 8, 8] y) { CONV y = Add (z, o) }"
    return _conv(text, o=np.array(offset, np.float32))


MODELS = {
    "nothing but constants": graph(
        "g (float[1, 4] x) => (float[1, 4] y, int64[2] s) { y = Identity (k) s = Shape (x) }",
        k=np.ones((1, 4), np.float32),
    ),
    "300 more than their range": far_from_0(300),
    "a million more than their range": far_from_0(1e6),
    "uint64": graph(
        "g (uint64[1, 4] x) => (uint64[1, 4] y, float[1, 4] z)"
        "{ y = Add (x, k) z = Cast <to = 1> (x) }",
        k=np.array([[1, 2, 3, 2**63]], np.uint64),
    ),
    "operators on integers, in fp32": graph(
        "g (uint8[1, 16] q) => (float[1, 4] y)"
        "{ m = QLinearMatMul (q, s, z, w, s, v, t, z) y = DequantizeLinear (m, t, z) }",
        s=np.array(0.05, np.float32),
        t=np.array(0.5, np.float32),
        z=np.array(128, np.uint8),
        v=np.array(0, np.int8),
        w=np.clip(random(16, 4) * 100, -127, 127).astype(np.int8),
    ),
    "constant, saturated, of groups, an input": _conv(
        "(float[1, 8, 8, 8] y, float[2] c, float[1, 3, 8, 8] x, float[1, 4, 17, 17] t)"
        "{ CONV y = Sigmoid (z) c = Identity (k)"
        " t = ConvTranspose <group = 2, strides = [2, 2]> (z, tw, tb) }",
        bias=-15.0,
        k=np.array([1, 2], np.float32),
        tw=random(8, 2, 3, 3),
        tb=random(4),
    ),
}


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("fp32", "nothing but constants"),
        ("int8", "nothing but constants"),
        ("fp32", "300 more than their range"),
        ("fp32", "a million more than their range"),
        ("fp32", "uint64"),
        ("fp32", "operators on integers, in fp32"),
        ("int8", "constant, saturated, of groups, an input"),
    ],
)
def test_it_compiles_and_verifies(precision: str, name: str, tmp_path: Path) -> None:
    job = mbv3c.JobSpec("host_cpu", precision=precision)
    compiled = mbv3c.compile(MODELS[name], job, tmp_path / "bundle")
    assert compiled.verdict is not None and compiled.verdict.passed


def test_an_output_whose_size_depends_on_values_is_named() -> None:
    """Before anything is calibrated, which would fail on the second input."""
    text = "g (float[1, 20] x, int64[1] k) => (float[1, n] y) { y, i = TopK (x, k) }"
    with pytest.raises(Mbv3cError, match=r"TopK .*the shape of its output is dynamic"):
        mbv3c.quantize(graph(text), random_inputs=2)


def test_a_dynamic_batch_is_named(tmp_path: Path) -> None:
    model = graph("g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu (x) }")
    with pytest.raises(Mbv3cError, match=r"\(N, 3, 8, 8\).*--input-shape 1,3,8,8"):
        mbv3c.compile(model, mbv3c.JobSpec("host_cpu"), tmp_path / "bundle")
