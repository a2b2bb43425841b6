"""From the model as given to the graph that a backend lowers."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx

from mbv3c.errors import UsageError
from mbv3c.passes import PassReport, run_pipeline


def rewritten_for(
    model: onnx.ModelProto, precision: str
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Return the graph that `build_library` takes: a quantized one as it is.

    It was rewritten before it was quantized, and rewriting would fold its integers to fp32.
    """
    return (model, []) if precision == "int8" else run_pipeline(model)


def check_keep_float(model: onnx.ModelProto, keep_float: Sequence[str]) -> None:
    """Make sure that every pattern matches the name of a node of a rewritten graph.

    Raises:
        UsageError: one matches none.
    """
    for pattern in keep_float:
        if not any(fnmatchcase(node.name, pattern) for node in model.graph.node):
            raise UsageError(
                f"--keep-float {pattern!r} matches no layer of the rewritten graph; "
                "`mbv3c compile --explain` lists them"
            )
