"""TFLite files of our graphs, run by LiteRT beside onnxruntime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

import mbv3c
from benchmarks.avx2 import unsigned
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


def error(model: onnx.ModelProto, *, in_parts: bool = False) -> tuple[float, list[str]]:
    """Return how far LiteRT is off, of the range, and the operators that it executes."""
    x, wanted = reference(model)
    lite = Interpreter(model_content=tflite_of(model, swish_in_parts=in_parts), num_threads=1)
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1).copy())
    lite.invoke()
    found = lite.get_tensor(lite.get_output_details()[0]["index"])
    operators = [one["op_name"] for one in lite._get_ops_details()]
    return float(np.abs(found - wanted).max() / np.ptp(wanted)), operators


def test_floats_are_equal_and_xnnpack_takes_all(network: onnx.ModelProto) -> None:
    found, operators = error(network)
    assert found < 1e-5
    assert operators.count("DELEGATE") == 1


@pytest.mark.parametrize("in_parts", [False, True])
def test_integers_are_near(quantized: onnx.ModelProto, in_parts: bool) -> None:
    found, operators = error(quantized, in_parts=in_parts)
    assert found < 0.1
    assert operators.count("HARD_SWISH") == (1 if in_parts else 21)
    assert operators.count("DELEGATE") == (2 if in_parts else 22)


def test_uint8_has_the_same_steps(quantized: onnx.ModelProto) -> None:
    np.testing.assert_array_equal(reference(quantized)[1], reference(unsigned(quantized))[1])


def test_what_is_not_written_is_named() -> None:
    text = "g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) { y = Softmax(x) }"
    with pytest.raises(UnknownGraphError, match="Softmax"):
        tflite_of(graph(text))
