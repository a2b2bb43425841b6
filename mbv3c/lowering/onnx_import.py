"""ONNX to Relax, and Relax to fused TensorIR.

Constants are reshaped at once:

    reshape(constant, shape)   ⇒   constant

The importer writes every bias of a convolution this way. TVM's FoldConstant would compile a kernel
for each of them, which takes longer than all the rest of lowering.
"""

import io
import re
from collections.abc import Callable, Container
from contextlib import redirect_stdout

import onnx
import tvm
from tvm import relax
from tvm.relax import transform
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx import from_onnx
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from mbv3c.errors import ModelError, UnknownOperatorsError
from mbv3c.graphs.count import computed_types
from mbv3c.passes.undo_fusions import FOR_ONE_PROCESSOR, LAID_OUT
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS, opset_of
from mbv3c.steps import step

_WITHOUT_KERNEL = ("TopK",)  # the importer makes a call of TVM's runtime of them
_INTEGERS = (
    *(onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32),
    *(onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.INT64),
)
_NARROW = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith("FLOAT8") or name.endswith(("INT4", "INT2", "FLOAT4E2M1"))
)


def check_operators(
    model: onnx.ModelProto, is_own: Callable[[onnx.NodeProto], bool] = lambda node: False
) -> None:
    """Make sure that TVM can import every operator, and has a kernel for it; or it `is_own`.

    Raises:
        UnknownOperatorsError: TVM lacks some operators; the message names them all, with their
            nodes.
    """
    known = _get_convert_map()
    lacking: dict[str, dict[str, list[str]]] = {}
    positions = []
    narrow = {each.name for each in model.graph.initializer if each.data_type in _NARROW}
    whole = _whole_numbers(model)
    for position, node in enumerate(model.graph.node):
        if node.op_type not in known or node.domain not in DEFAULT_DOMAINS or _crops(node):
            how = "cannot import these operators"
        elif node.op_type in _WITHOUT_KERNEL and not is_own(node):
            how = "has no kernel for these operators"
        elif _is_narrow(node, narrow):
            how = "has no numbers of float8 or of 4 bits for these operators"
        elif _pads_otherwise(node):
            how = (
                "pads these otherwise than onnxruntime, where auto_pad meets dilations (set pads)"
            )
        elif _interpolates(node) and node.input[0] in whole:
            how = "rounds whole numbers otherwise than onnxruntime (set a Cast to floats in front)"
        else:
            continue
        positions.append(position)
        nodes = lacking.setdefault(how, {}).setdefault(node.op_type, [])
        nodes.append(_shown(node))
    if lacking:
        message = "; ".join(
            f"TVM {tvm.__version__} {how}: "
            + "; ".join(f"{op} (nodes: {', '.join(names)})" for op, names in found.items())
            for how, found in lacking.items()
        )
        if any(model.graph.node[position].domain in FOR_ONE_PROCESSOR for position in positions):
            message += f"; {LAID_OUT}"
        raise UnknownOperatorsError(message, tuple(positions))


def _shown(node: onnx.NodeProto) -> str:
    """Name a node, by its first output if it has no name."""
    return node.name or f"→ {next(filter(None, node.output), '')}"


def _is_narrow(node: onnx.NodeProto, stored: Container[str]) -> bool:
    """Say whether a node makes, or reads as stored, numbers of which TVM makes something else."""
    kinds = (each.i for each in node.attribute if each.name in ("to", "output_dtype"))
    return any(kind in _NARROW for kind in kinds) or any(name in stored for name in node.input)


def _pads_otherwise(node: onnx.NodeProto) -> bool:
    """Say whether a dilated pool chooses its padding, where onnxruntime departs from ONNX."""
    given = {each.name: each for each in node.attribute}
    dilated = "dilations" in given and any(each > 1 for each in given["dilations"].ints)
    mode = given["auto_pad"].s if "auto_pad" in given else b""
    return node.op_type.endswith("Pool") and dilated and mode.startswith(b"SAME")


def _interpolates(node: onnx.NodeProto) -> bool:
    """Say whether a Resize adds up pixels."""
    return node.op_type in ("Resize", "Upsample") and any(
        attribute.s in (b"linear", b"cubic") for attribute in node.attribute
    )


def _whole_numbers(model: onnx.ModelProto) -> Container[str]:
    """Return the tensors that hold no floats, in a model with a Resize that adds up pixels."""
    if not any(map(_interpolates, model.graph.node)):
        return ()
    types = computed_types(onnx.shape_inference.infer_shapes(model).graph)
    return {name for name, kind in types.items() if kind in _INTEGERS}


def _crops(node: onnx.NodeProto) -> bool:
    """Say whether a Resize cuts a part out of its input; of that TVM makes something else."""
    return node.op_type == "Resize" and any(
        attribute.s == b"tf_crop_and_resize" for attribute in node.attribute
    )


def import_onnx(model: onnx.ModelProto) -> tvm.IRModule:
    """Import a graph with fixed shapes; weights become constants of the function `main`.

    Raises:
        UnknownOperatorsError: TVM lacks some operators.
        ModelError: TVM fails to import an operator.
    """
    check_operators(model)
    opset = opset_of(model)
    printed = io.StringIO()  # on failure the importer prints which operator it was at
    try:
        with (
            redirect_stdout(printed),
            step("importing the graph", "TVM", model.ByteSize),
        ):
            return from_onnx(model, opset=opset, keep_params_in_input=False)
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(_why_not(model, printed.getvalue(), error)) from error


_FAILED = re.compile(r"Error converting operator (\w+)")
_LACKING = re.compile(r"Missing outputs .* in (\w+)")
_MOST_SHOWN = 200  # characters of TVM's own words
_AWAITED = re.compile(r"\bVar\b|[Dd]ynamic|[Nn]on-constant|[Oo]nly constant|shape_func")
_NEEDS_CONSTANTS = (
    "it needs constants, and a shape, an axis, sizes or the like are computed when the model runs"
)


def _last_line(error: Exception) -> str:
    """Return what TVM says in the end, without what it dumps before, or what it means."""
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyError):
        return f"its importer expects {error}, which the node has not"
    said = lines[-1] if lines else repr(error)
    lacking = _LACKING.search(said)
    if lacking is not None:
        return f"it does not make all outputs of {lacking[1]}, such as the places of maxima"
    return _NEEDS_CONSTANTS if _AWAITED.search(said) else said[:_MOST_SHOWN]


def _why_not(model: onnx.ModelProto, printed: str, error: Exception) -> str:
    """Name the operator that TVM fails at, its nodes, and TVM's reason without its dumps."""
    reason = _last_line(error)
    found = _FAILED.search(printed) or _LACKING.search(str(error))
    if found is None:
        return f"TVM {tvm.__version__} cannot import this model: {reason}"
    operator = found[1]
    names = [_shown(node) for node in model.graph.node if node.op_type == operator]
    return (
        f"TVM {tvm.__version__} cannot import {operator} as it is used here (nodes: "
        f"{', '.join(names)}): {reason}; write it in other operators, or end the export before it"
    )


_TAKE = tvm.ir.Op.get("relax.take")
_RESHAPE = tvm.ir.Op.get("relax.reshape")


@tvm.transform.module_pass(opt_level=0, name="FoldReshape")
class FoldReshape:
    """Replace reshapes of constants by constants."""

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        return _mutated(module, _Folder)


@tvm.transform.module_pass(opt_level=0, name="ReadInside")
class ReadInside:
    """Have a Gather of positions outside of its table read the first or the last row.

    ONNX calls such positions an error. TVM would read what lies beside the table, and warns of
    that whatever the positions are.
    """

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        return _mutated(module, _Clipper)


def _mutated(module: tvm.IRModule, kind: type[PyExprMutator]) -> tvm.IRModule:
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            module[name] = kind(module).visit_expr(function)
    return module


@mutator
class _Folder(PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if call.op != _RESHAPE or not isinstance(call.args[0], tvm.ir.expr.GenericConst):
            return call
        data = call.args[0].value
        shape = [int(size) for size in call.args[1].values]
        return relax.const(data.numpy().reshape(shape), str(data.dtype))


@mutator
class _Clipper(PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if call.op != _TAKE or call.attrs.mode != "fast":
            return call
        return relax.op.take(*call.args, call.attrs.axis, "clip")


# In order: spell composite operators out, make one binding per value, compute what is constant,
# turn every operator into TensorIR, and merge elementwise work into the convolution before it.
RELAX_PASSES: tuple[tvm.transform.Pass, ...] = (
    transform.DecomposeOpsForInference(),
    FoldReshape(),
    ReadInside(),
    transform.CanonicalizeBindings(),
    transform.FoldConstant(),
    transform.LegalizeOps(),
    transform.AnnotateTIROpPattern(),
    transform.FoldConstant(),
    transform.FuseOps(),
    transform.FuseTIR(),
    transform.DeadCodeElimination(),
)


def legalize(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Lower an imported graph to one `main` over fused TensorIR functions, not yet scheduled.

    Raises:
        ModelError: TVM fails, as on a division by a constant zero.
    """
    try:
        with target:
            return tvm.transform.Sequential(RELAX_PASSES)(module)
    except Exception as error:  # passes raise whatever they meet
        raise ModelError(
            f"TVM {tvm.__version__} cannot lower this model: {_last_line(error)}; "
            "`mbv3c verify --ladder` on the model names the part"
        ) from error
