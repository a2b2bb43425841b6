"""What every test of a rewrite does: read a graph from text, apply the rewrite, look at both."""

import numpy as np
import onnx
from onnx import numpy_helper

from mbv3c.graphs.load import model_input, static_shape
from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes import Pass, PassReport

# A rewritten activation differs by the rounding of one or two fp32 operations.
ROUNDING = 1e-6
# fp16 holds 11 bits; onnxruntime computes the fused operators in fp32.
HALF_ROUNDING = 2e-3

# Both bends of relu6(x + 3), the zero between them, and what lies just beside each.
_NEAR = (-3.0, 0.0, 3.0)
VALUES = (
    *(point + step for point in _NEAR for step in (-0.5, -1e-3, 0.0, 1e-3, 0.5)),
    *(-100.0, -8.0, 8.0, 100.0),
)


def sample(shape: tuple[int, ...]) -> np.ndarray:
    """Return an input that holds every one of VALUES, if there is room, in mixed order."""
    values = np.resize(np.array(VALUES, np.float32), shape)
    return np.random.default_rng(0).permutation(values.ravel()).reshape(shape)


def fires(
    rewrite: Pass, model: onnx.ModelProto, tolerance: float = ROUNDING
) -> tuple[onnx.ModelProto, PassReport]:
    """Apply a rewrite that must change the graph and nothing of what the graph computes."""
    given = model.SerializeToString()
    rewritten, report = rewrite(model)
    assert report.changed
    assert report.matched
    assert model.SerializeToString() == given  # the rewrite works on a copy
    onnx.checker.check_model(rewritten, full_check=True)
    assert (report.nodes_before, report.nodes_after) == (nodes(model), nodes(rewritten))
    assert ports(rewritten) == ports(model)
    assert error(model, rewritten) <= tolerance
    again, second = rewrite(rewritten)
    assert again is rewritten
    assert not second.changed
    assert second.matched == ()
    return rewritten, report


def refuses(rewrite: Pass, model: onnx.ModelProto) -> str:
    """Apply a rewrite that must leave the graph alone, and return the one reason it gives."""
    report = leaves_alone(rewrite, model)
    assert len(report.refused) == 1
    return report.refused[0].reason


def ignores(rewrite: Pass, model: onnx.ModelProto) -> None:
    """Apply a rewrite to a graph that does not even look like a match."""
    assert leaves_alone(rewrite, model).refused == ()


def leaves_alone(rewrite: Pass, model: onnx.ModelProto) -> PassReport:
    """Apply a rewrite that must leave the graph alone."""
    given = model.SerializeToString()
    rewritten, report = rewrite(model)
    assert not report.changed
    assert report.matched == ()
    assert report.nodes_before == report.nodes_after == nodes(model)
    assert rewritten.SerializeToString() == given
    return report


def error(model: onnx.ModelProto, rewritten: onnx.ModelProto) -> float:
    """Return the largest error over all inputs, as a fraction of the output's range."""
    shape = static_shape(model_input(model))
    assert shape is not None
    x = sample(shape)
    outputs = zip(run(session(rewritten), x), run(session(model), x), strict=True)
    return max(error_of_range(after, before) for after, before in outputs)


def ports(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Return the names of the graph's inputs and outputs."""
    return [i.name for i in model.graph.input], [o.name for o in model.graph.output]


def nodes(model: onnx.ModelProto) -> int:
    return len(model.graph.node)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
