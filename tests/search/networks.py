"""Tiny networks of 32 pixels, made once for a process."""

import functools

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import completed
from tests.onnx_text import graph, random

NETWORKS: dict[str, dict[str, str]] = {
    "mobilenet_v2": {"network": "mobilenet_v2"},
    "large": {"variant": "large"},
    "small": {"variant": "small"},
    "mnasnet_a1": {"network": "mnasnet_a1"},
}


@functools.cache
def network(name: str) -> onnx.ModelProto:
    """Build a network at width 0.35 for five classes; do not change it."""
    return build_model(
        completed({**NETWORKS[name], "width": 0.35, "resolution": 32, "classes": 5})
    )


def outputs(model: onnx.ModelProto, seed: int = 0) -> NDArray[np.float32]:
    """Run a model with one output on noise."""
    (y,) = all_outputs(model, seed)
    return y


def all_outputs(model: onnx.ModelProto, seed: int = 0) -> list[NDArray[np.float32]]:
    """Run a model on noise, as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(seed)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    feeds = {
        given.name: random.standard_normal(given.shape).astype(
            onnx.helper.tensor_dtype_to_np_dtype(types[given.name])
        )
        for given in session.get_inputs()
    }
    return [np.asarray(y, np.float32) for y in session.run(None, feeds)]


_TAIL = """
    p = GlobalAveragePool(b)
    f = Flatten(p)
    y = Gemm(f, w9)
"""


def around(middle: str, width: int = 8, **initializers: np.ndarray) -> onnx.ModelProto:
    """Return a network of `a`: 8 maps of 4x4, a middle that makes `b` of them, and logits."""
    text = f"""g (float[1,3,4,4] x) => (float[1,5] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w0)
        a = Relu(c) {middle} {_TAIL} }}"""
    return graph(text, w0=random(8, 3, 3, 3), w9=random(width, 5), **initializers)
