"""onnxruntime as its users run it, to be timed beside a library. Imports nothing else of mbv3c."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def open_onnxruntime(
    model: Path, arrays: Sequence[Any], threads: int
) -> Callable[[], Sequence[Any]]:
    """Open a model with every optimisation of onnxruntime; return what runs one inference.

    `arrays` are its inputs, in the model's order.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = (value.name for value in session.get_inputs())
    feed = dict(zip(names, arrays, strict=True))
    return lambda: session.run(None, feed)
