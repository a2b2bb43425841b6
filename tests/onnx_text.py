"""Small ONNX graphs written as text, and inputs for them."""

import numpy as np
import onnx
from onnx import numpy_helper


def graph(text: str, opset: int = 17, **initializers: np.ndarray) -> onnx.ModelProto:
    """Read a graph in ONNX text; arrays that are awkward in text come as keywords."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
