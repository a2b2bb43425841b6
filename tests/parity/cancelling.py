"""Small models whose sums cancel, so that fp32 keeps few of their digits."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

Constants = dict[str, np.ndarray]
Make = Callable[[], onnx.ModelProto]
_HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _model(text: str, constants: Constants) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{_HEAD} {text}")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in constants.items()
    )
    return model


def norm_takes_the_bias_away() -> onnx.ModelProto:
    """A bias of 1e5, and a BatchNormalization whose mean is nearly that."""
    rng = np.random.default_rng(0)
    mean = 1e5 + _random(rng, 8)
    constants = {
        "weight": _random(rng, 8, 3, 3, 3),
        "bias": np.full(8, 1e5, np.float32),
        "gain": np.ones(8),
        "shift": np.zeros(8),
        "mean": mean,
        "var": np.full(8, 25.0),
    }
    return _model(
        """g (float[1, 3, 8, 8] x) => (float[1, 8] y) {
            [conv] c = Conv <pads = [1, 1, 1, 1]> (x, weight, bias)
            [norm] n = BatchNormalization (c, gain, shift, mean, var)
            [act] a = Relu (n)
            [pool] p = GlobalAveragePool (a)
            [flatten] y = Flatten (p)
        }""",
        constants,
    )


def branches_cancel() -> onnx.ModelProto:
    """Two branches of 1e5 each, of which the difference is the output."""
    rng = np.random.default_rng(1)
    weight = _random(rng, 10, 16)
    constants = {
        "weight": weight,
        "other": _random(rng, 10, 16),
        "bias": 1e5 + _random(rng, 10),
        "bias2": 1e5 + _random(rng, 10),
    }
    return _model(
        """g (float[1, 16] x) => (float[1, 10] y) {
            [left] a = Gemm <transB = 1> (x, weight, bias)
            [right] b = Gemm <transB = 1> (x, other, bias2)
            [difference] d = Sub (a, b)
            [act] y = Relu (d)
        }""",
        constants,
    )


def offset_at_the_end() -> onnx.ModelProto:
    """A pressure in pascals: what the output moves by is 1/500 of its size."""
    rng = np.random.default_rng(2)
    constants = {
        "weight": 0.2 * _random(rng, 32, 16),
        "bias": _random(rng, 16),
        "other": 20 * _random(rng, 16, 4),
        "offset": np.full(4, 101325.0),
    }
    return _model(
        """g (float[1, 32] x) => (float[1, 4] y) {
            [first] a = Gemm (x, weight, bias)
            [act] t = Tanh (a)
            [last] y = Gemm (t, other, offset)
        }""",
        constants,
    )


def nothing_is_left() -> onnx.ModelProto:
    """As `branches_cancel`, of 1e7 each."""
    model = branches_cancel()
    for tensor in model.graph.initializer:
        if "bias" in tensor.name:
            raised = numpy_helper.to_array(tensor) + np.float32(1e7)
            tensor.CopyFrom(numpy_helper.from_array(raised, tensor.name))
    return model


def weights_sum_to_nothing() -> onnx.ModelProto:
    """An offset of 1e5 that the sum of a convolution's weights takes away."""
    rng = np.random.default_rng(2)
    weight = _random(rng, 8, 4, 3, 3)
    weight -= weight.mean(axis=(1, 2, 3), keepdims=True)
    constants = {"offset": np.array(1e5), "weight": weight, "project": _random(rng, 10, 8, 1, 1)}
    return _model(
        """g (float[1, 4, 8, 8] x) => (float[1, 10, 6, 6] y) {
            [raise] r = Add (x, offset)
            [conv] c = Conv (r, weight)
            [act] a = Relu (c)
            [project] y = Conv (a, project)
        }""",
        constants,
    )


MODELS: dict[str, Make] = {
    make.__name__: make
    for make in (norm_takes_the_bias_away, branches_cancel, weights_sum_to_nothing)
}


def with_fault(model: onnx.ModelProto, name: str, by: float = 1.01) -> onnx.ModelProto:
    """Return a model with the weights of a layer multiplied by a factor."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), name))
    return copy
