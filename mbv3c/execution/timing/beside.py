"""The runtimes that a library can be timed beside, and onnxruntime as its users run it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.nearest import among

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"


def check_other(name: str) -> None:
    """Make sure that there is a runtime of a name; whether it is installed is another question.

    Raises:
        UsageError: there is none.
    """
    others = (ONNXRUNTIME, OPENVINO)
    if name not in others:
        raise UsageError(f"unknown runtime {name!r}{among(name, others)}")


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
