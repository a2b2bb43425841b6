"""Models of onnxruntime's quantizer in its other format become pairs, bit for bit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from mbv3c.parity.reference import run, session
from mbv3c.passes import CLEANING, run_pipeline
from mbv3c.passes.split_qoperators import split_qoperators
from tests.foreign_models import SIDE, Net
from tests.onnx_text import graph, random
from tests.passes.rewriting import ignores, leaves_alone, operators
from tests.passes.test_undo_fusions import saved


class _Images(CalibrationDataReader):
    def __init__(self) -> None:
        self._images: Iterator[dict[str, np.ndarray]] = iter(
            [{"x": random(1, 3, SIDE, SIDE, seed=seed)} for seed in range(4)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._images, None)


def network() -> onnx.ModelProto:
    """Return a network with every operator that the quantizer makes integers of."""
    net = Net()
    x = net.trunk()
    x = net.add("Add", x, net.add("Relu", net.conv(x, (32, 32))))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Concat", x, net.add("Sigmoid", x), axis=1)
    x = net.add("LeakyRelu", net.conv(x, (64, 32)), alpha=0.1)
    x = net.add("AveragePool", x, kernel_shape=[2, 2])
    return net.model(net.add("Softmax", net.head(x)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_channel": True},
        {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
        {
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QUInt8,
            "per_channel": True,
        },
    ],
    ids=str,
)
def test_what_the_quantizer_writes(options: dict[str, object], tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    files = (tmp_path / "model.onnx", tmp_path / "quantized.onnx")
    quantize_static(*files, _Images(), quant_format=QuantFormat.QOperator, **options)
    model = onnx.load(tmp_path / "quantized.onnx")
    assert "QLinearConv" in operators(model)
    rewritten, report = split_qoperators(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert not report.refused
    assert not any(op.startswith("Q") for op in operators(rewritten) if op != "QuantizeLinear")
    assert not split_qoperators(rewritten)[1].changed
    cleaned, _ = run_pipeline(model, CLEANING)
    x = random(1, 3, SIDE, SIDE, seed=9)
    (wanted,) = run(session(model), x)
    optimized, _ = run_pipeline(saved(model, tmp_path, "ORT_ENABLE_ALL"), CLEANING)
    assert not any(op.startswith("QLinear") for op in operators(optimized))
    assert operators(optimized).count("Transpose") == 0
    for each in (rewritten, cleaned, optimized):
        np.testing.assert_array_equal(run(session(each), x)[0], wanted)


def test_steps_that_are_computed_stay() -> None:
    model = graph(
        """
        g (float[1, 4, 3, 3] x) => (uint8[1, 4, 3, 3] y) {
            q, s, z = DynamicQuantizeLinear (x)
            [conv] y = QLinearConv (q, s, z, w, ws, wz, ws, wz)
        }
        """,
        w=np.ones((4, 4, 1, 1), np.uint8),
        ws=np.array(0.1, np.float32),
        wz=np.array(0, np.uint8),
    )
    (refusal,) = leaves_alone(split_qoperators, model).refused
    assert (refusal.node, refusal.reason) == ("conv", "'s' of QLinearConv is not a constant")


@pytest.mark.parametrize(
    ("mode", "reads"), [("nearest", "DequantizeLinear"), ("linear", "QuantizeLinear")]
)
def test_a_resize_that_moves_integers_reads_floats(mode: str, reads: str) -> None:
    """A linear one computes with integers, and rounds in a way of its own."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1, 4, 3, 3] x) => (float[1, 4, 6, 6] y)
        <float s = {{0.05}}, uint8 z = {{120}}, float[4] scales = {{1, 1, 2, 2}}> {{
            q = QuantizeLinear (x, s, z)
            r = com.microsoft.QLinearLeakyRelu <alpha = 0.1> (q, s, z, s, z)
            u = Resize <mode = "{mode}"> (r, , scales)
            y = DequantizeLinear (u, s, z)
        }}""")
    rewritten, _ = split_qoperators(model)
    makers = {node.output[0]: node for node in rewritten.graph.node}
    (resize,) = (node for node in makers.values() if node.op_type == "Resize")
    assert makers[resize.input[0]].op_type == reads
    x = random(1, 4, 3, 3)
    np.testing.assert_array_equal(*(run(session(each), x)[0] for each in (rewritten, model)))


def test_floats_stay() -> None:
    ignores(split_qoperators, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


INTEGERS = """
    <ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
    g (float[1, 4, 6, 6] x) => (float[a, b, c, d] y)
    <float s = {{0.05}}, uint8 z = {{128}}, float t = {{0.004}}, uint8 o = {{0}}> {{
        q = QuantizeLinear (x, s, z)
        [it] r = {call}
        y = DequantizeLinear (r, {ends})
    }}
"""


@pytest.mark.parametrize(
    ("call", "ends", "opset", "reason"),
    [
        (
            "com.microsoft.QLinearAveragePool <kernel_shape = [2], channels_last = 1> "
            "(q, s, z, s, z)",
            *("s, z", 17, "its channels are last, and it is no image"),
        ),
        (
            "com.microsoft.QLinearSoftmax <opset = 13, axis = 1> (q, s, z, t, o)",
            *("t, o", 17, "its axis is not the last"),
        ),
        (
            "com.microsoft.QLinearAdd (q, s, z, q, s, z, s)",
            *("s", 17, "it leaves out a zero point"),
        ),
        (
            "QLinearConv (q, s, z, w, ws, wz, s, z)",
            *("s, z", 11, "it has a step per channel, and the model has opset 11"),
        ),
    ],
)
def test_what_has_no_other_spelling(call: str, ends: str, opset: int, reason: str) -> None:
    model = onnx.parser.parse_model(INTEGERS.format(call=call, ends=ends, opset=opset))
    arrays = {
        "w": np.ones((5, 4, 1, 1), np.int8),
        "ws": np.full(5, 0.1, np.float32),
        "wz": np.zeros(5, np.int8),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    (refusal,) = leaves_alone(split_qoperators, model).refused
    assert (refusal.node, refusal.reason) == ("it", reason)


def test_the_step_of_a_bias_has_the_factor_of_the_product() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[2, 4] x) => (float[2, 5] y)
        <float s = {0.05}, uint8 z = {128}, float t = {0.02}, int8 o = {0},
         int32[5] b = {0, 1000, 2000, 3000, 4000}> {
            q = QuantizeLinear (x, s, z)
            y = com.microsoft.QGemm <alpha = 0.5> (q, s, z, w, t, o, b)
        }
    """)
    weights = np.arange(20, dtype=np.int8).reshape(4, 5)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    rewritten, _ = split_qoperators(model)
    x = random(2, 4)
    ours, wanted = (run(session(each), x)[0] for each in (rewritten, model))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
