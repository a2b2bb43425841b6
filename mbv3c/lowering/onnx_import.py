"""ONNX to Relax."""

import io
from contextlib import redirect_stdout

import onnx
import tvm
from tvm.relax.frontend.onnx import from_onnx
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from mbv3c.errors import ModelError, UnknownOperatorsError

_DEFAULT_DOMAINS = ("", "ai.onnx")


def check_operators(model: onnx.ModelProto) -> None:
    """Make sure that TVM can import every operator.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators; all of them are named, with
            their nodes.
    """
    known = _get_convert_map()
    unknown: dict[str, list[str]] = {}
    positions = []
    for position, node in enumerate(model.graph.node):
        if node.op_type not in known or node.domain not in _DEFAULT_DOMAINS:
            positions.append(position)
            unknown.setdefault(node.op_type, []).append(node.name or f"→ {node.output[0]}")
    if unknown:
        listed = "; ".join(f"{op} (nodes: {', '.join(names)})" for op, names in unknown.items())
        message = f"TVM {tvm.__version__} cannot import these operators: {listed}"
        raise UnknownOperatorsError(message, tuple(positions))


def import_onnx(model: onnx.ModelProto) -> tvm.IRModule:
    """Import a graph with fixed shapes; weights become constants of the function `main`.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: TVM fails to import one.
    """
    check_operators(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS)
    printed = io.StringIO()  # on failure the importer prints which operator it was at
    try:
        with redirect_stdout(printed):
            return from_onnx(model, opset=opset, keep_params_in_input=False)
    except Exception as error:  # the importer raises whatever its converters raise
        lines = [*printed.getvalue().splitlines(), *str(error).strip().splitlines()[-1:]]
        reason = ": ".join(lines) or repr(error)
        raise ModelError(f"TVM {tvm.__version__} cannot import this model: {reason}") from error
