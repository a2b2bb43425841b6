"""Reshape constants at once.

    reshape(constant, shape)   ⇒   constant

The importer writes every bias of a convolution this way. TVM's FoldConstant would compile a kernel
for each of them, which takes longer than all the rest of lowering.
"""

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

_RESHAPE = tvm.ir.Op.get("relax.reshape")


@tvm.transform.module_pass(opt_level=0, name="FoldReshape")
class FoldReshape:
    """Replace reshapes of constants by constants."""

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        for name, function in module.functions_items():
            if isinstance(function, relax.Function):
                module[name] = _Folder(module).visit_expr(function)
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
