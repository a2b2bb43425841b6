"""onnxruntime opened on a model, and run on one input after the other."""

import re
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime import GraphOptimizationLevel as Level

from mbv3c.errors import ModelError
from mbv3c.feeds import Array, Feed, arrays_of
from mbv3c.steps import of_large, step

PLAIN, OPTIMIZED = Level.ORT_DISABLE_ALL, (Level.ORT_ENABLE_BASIC, Level.ORT_ENABLE_ALL)
_PROVIDERS = ["CPUExecutionProvider"]
_FATAL_ONLY = 4  # severity: messages about unused initialisers are not for our users


@step("loading the model", "onnxruntime", of_large)
def session(model: onnx.ModelProto, level: Level = PLAIN) -> ort.InferenceSession:
    """Open a model on one thread, so that sums do not depend on the number of cores.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=_PROVIDERS)
    except Exception as error:  # onnxruntime's exceptions share no other base
        lacking = _NO_KERNEL.search(str(error))
        if lacking is not None:
            raise ModelError(_without_kernel(model, *lacking.groups())) from error
        raise ModelError(f"onnxruntime cannot load the model: {error}") from error


def optimized_sessions(model: onnx.ModelProto) -> Iterator[ort.InferenceSession]:
    """Open a model with onnxruntime's own optimisations, at each level that can load it.

    A level that cannot, as of quantized pools of opset 21 and newer, excuses no difference. Where
    none can, that is what the plain model makes. Each holds the weights a few times, so it is
    opened when it is asked for.
    """
    none = True
    for level in OPTIMIZED:
        try:
            opened = session(model, level)
        except ModelError:
            continue
        none = False
        yield opened
        del opened
    if none:
        yield session(model)


_NO_KERNEL = re.compile(
    r"Could not find an implementation for (\w+)\(\d+\) node with name '(.*?)'"
)


def _without_kernel(model: onnx.ModelProto, operator: str, name: str) -> str:
    """Say which operator onnxruntime knows, but not for the types that it has here."""
    nodes = [
        node.name or f"→ {node.output[0]}"
        for node in model.graph.node
        if node.op_type == operator and node.name in (name, "")
    ]
    return (
        f"onnxruntime, which says what is right, has no kernel of {operator} for the types here "
        f"(nodes: {', '.join(nodes) or name}); export it in float32 or int64, with a Cast behind "
        "it where another type is needed"
    )


def feed_for(opened: ort.InferenceSession, x: Feed) -> dict[str, Array]:
    """Return an input of a model as onnxruntime takes it, by the names of the model's inputs."""
    names = [value.name for value in opened.get_inputs()]
    return dict(zip(names, map(np.asarray, arrays_of(x)), strict=True))


@step("running the model", "onnxruntime", of_large)
def run(opened: ort.InferenceSession, x: Feed) -> list[Array]:
    """Run one input through an opened model and return its outputs in their order.

    Raises:
        ModelError: onnxruntime fails, as on a position outside of a table, or a division by zero.
    """
    return run_for(opened, None, feed_for(opened, x))


def run_for(
    opened: ort.InferenceSession, names: list[str] | None, feed: dict[str, Array]
) -> list[Array]:
    """Run named inputs through an opened model and return these outputs, all of them for None.

    Raises:
        ModelError: as `run` says.
    """
    try:
        return [np.asarray(output) for output in opened.run(names, feed)]
    except Exception as error:  # onnxruntime's exceptions share no other base
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"onnxruntime cannot run the model on this input: {reason}") from error
