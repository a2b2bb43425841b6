"""TFLite files of our graphs, run by LiteRT beside onnxruntime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import mbv3c
from benchmarks.avx2 import unsigned
from benchmarks.layouts import with_same_pads
from benchmarks.litert import PartlyTakenError, open_litert
from benchmarks.tflite import UnknownGraphError, tflite_of
from mbv3c.passes import run_pipeline
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from tests.onnx_text import graph


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    # Large adds what a hard-swish gives to a residual; Small does not.
    built = mbv3c.build(variant="large", width=0.35, resolution=64, classes=10)
    return run_pipeline(built)[0]


@pytest.fixture(scope="module")
def quantized(network: onnx.ModelProto) -> onnx.ModelProto:
    return quantize(network, random_inputs(network, 4), rank_layers=False)[0]


def reference(model: onnx.ModelProto) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return an input, and what onnxruntime computes without optimisations."""
    x = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return x, ort.InferenceSession(model.SerializeToString(), options).run(None, {"input": x})[0]


def error(model: onnx.ModelProto, file: bytes, *, whole: bool = True) -> float:
    """Return how far LiteRT is off, of the range, in the second of two inferences."""
    x, wanted = reference(model)
    run = open_litert(file, x, 1, whole=whole)
    run()
    return float(np.abs(run() - wanted).max() / np.ptp(wanted))


def test_floats_are_equal_and_xnnpack_takes_all(network: onnx.ModelProto) -> None:
    assert error(network, tflite_of(network)) < 1e-5
    # Most processors of x86 have no arithmetic of fp16: then XNNPACK takes fp32 here, too.
    assert error(network, tflite_of(network, half=True)) < 2e-2


def test_integers_are_near_and_xnnpack_takes_all(quantized: onnx.ModelProto) -> None:
    assert error(quantized, tflite_of(quantized, swish_in_parts=True)) < 0.1


def test_litert_keeps_its_own_hard_swish(quantized: onnx.ModelProto) -> None:
    file = tflite_of(quantized)
    assert error(quantized, file, whole=False) < 0.1
    with pytest.raises(PartlyTakenError, match="the whole network"):
        open_litert(file, reference(quantized)[0], 1)


def test_tensorflows_pads_need_no_operator(network: onnx.ModelProto) -> None:
    padded = with_same_pads(network)
    assert network.graph.node != padded.graph.node
    assert error(padded, tflite_of(padded)) < 1e-5
    copied = [b".pads" in tflite_of(one) for one in (network, padded)]
    assert copied == [True, False]


def test_uint8_has_the_same_steps(quantized: onnx.ModelProto) -> None:
    np.testing.assert_array_equal(reference(quantized)[1], reference(unsigned(quantized))[1])


def test_what_is_not_written_is_named() -> None:
    text = "g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) { y = Softmax(x) }"
    with pytest.raises(UnknownGraphError, match="Softmax"):
        tflite_of(graph(text))
