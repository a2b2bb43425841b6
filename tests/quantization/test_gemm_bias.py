"""Biases of Gemm and graphs inside of nodes, quantized."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.passes.names import nodes_in
from mbv3c.quantization.gemm_bias import with_biases_of_channels
from tests.command_line import mbv3c
from tests.onnx_text import graph, random

BIASES = {
    "scalar": (np.float32(0.5), ["Gemm"]),
    "1": (random(1), ["Gemm"]),
    "1xN": (random(1, 6), ["Gemm"]),
    "Mx1": (random(2, 1), ["Gemm", "Mul", "Add"]),
    "MxN": (random(2, 6), ["Gemm", "Mul", "Add"]),
    "N": (random(6), ["Gemm"]),
}


@pytest.mark.parametrize("name", BIASES)
def test_each_is_quantized(name: str, tmp_path: Path) -> None:
    bias, operators = BIASES[name]
    model = graph(
        "g (float[2, 8] x) => (float[2, 6] y) { y = Gemm <transB = 1, beta = 2.0> (x, w, b) }",
        w=random(6, 8),
        b=np.asarray(bias),
    )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    written = with_biases_of_channels(copy)
    assert [node.op_type for node in written.graph.node] == operators
    onnx.checker.check_model(written, full_check=True)
    onnx.save(model, tmp_path / "x.onnx")
    quantize(tmp_path)


def quantize(folder: Path) -> onnx.ModelProto:
    """Quantize x.onnx, which is measured against the model as given."""
    options = ("--random-inputs", "4", "-o", folder / "y.onnx")
    done = mbv3c("quantize", folder / "x.onnx", *options)
    assert done.returncode == 0, done.stderr
    return onnx.load(folder / "y.onnx")


def test_constants_of_inner_graphs_stay(tmp_path: Path) -> None:
    model = graph(
        """
        g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = Relu (c)
            m = ReduceMax <keepdims = 0> (x)
            some = Greater (m, zero)
            z = If (some) <
                then_branch = t () => (float[1, 4, 8, 8] a) { a = Add (r, one) },
                else_branch = e () => (float[1, 4, 8, 8] b) { b = Mul (c, two) }
            >
            y = Relu (z)
        }
        """,
        w=random(4, 3, 3, 3),
        zero=np.float32(0),
        one=np.float32(1),
        two=np.float32(2),
    )
    onnx.save(model, tmp_path / "x.onnx")
    quantized = quantize(tmp_path)
    assert {"one", "two"} <= {tensor.name for tensor in quantized.graph.initializer}
    assert "QuantizeLinear" in {node.op_type for node in nodes_in(quantized.graph)}
