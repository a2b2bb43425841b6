"""Models for the tests of C libraries."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def write_model(text: str, sizes: Mapping[str, tuple[int, ...]], path: Path) -> Path:
    """Write a model with weights of these shapes; return its path."""
    parsed = onnx.parser.parse_model(text)
    rng = np.random.default_rng(7)
    for name, shape in sizes.items():
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(parsed, path)
    return path
