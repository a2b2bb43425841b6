"""Programs without TVM's checks of arguments, which take LLVM as long as the kernels.

TVM checks type, shape, strides, offset, device and place of each argument before a kernel runs. A
kernel needs that where memory of the program's user comes in. All other arguments are allocated by
the function that calls the kernel, or are constants in the library, and fit by construction.
"""

from contextlib import AbstractContextManager
from typing import Any

import tvm
from tvm import relax, tirx

_TRUSTED = "mbv3c.trusted"  # on kernels that get no memory from outside
_ALLOCATE = ("relax.memory.alloc_tensor", "relax.builtin.alloc_tensor")
_VIEW = "vm.builtin.reshape"


@tvm.transform.module_pass(opt_level=0, name="MarkTrusted")
class MarkTrusted:
    """Mark the kernels that every call gives memory of the calling function, or constants."""

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        callers = [each for each in module.functions.values() if isinstance(each, relax.Function)]
        called, open_ones = set(), set()
        for caller in callers:
            for kernel, trusted in _calls(caller):
                called.add(kernel)
                if not trusted:
                    open_ones.add(kernel)
        marked = module.clone()
        for kernel in called - open_ones:
            function = module[kernel]
            if isinstance(function, tirx.PrimFunc):
                marked[kernel] = function.with_attr(_TRUSTED, True)
        return marked


def _calls(caller: relax.Function) -> list[tuple[str, bool]]:
    """Return each call of a kernel: its name, and whether all its arguments are trusted.

    What is called, or handed on, anywhere else than by a statement of the function itself is not:
    in a branch, for one. Nothing that mbv3c assembles has such calls.
    """
    calls, inside = [], set()

    def trusted(argument: Any) -> bool:
        return isinstance(argument, tvm.ir.GenericConst) or argument in inside

    for binding in (each for block in caller.body.blocks for each in block.bindings):
        call = binding.value
        elsewhere = call.args if isinstance(call, relax.Call) else [call]
        calls += [(name, False) for each in elsewhere for name in _kernels_in(each)]
        if not isinstance(call, relax.Call):
            continue
        if isinstance(call.op, tvm.ir.GlobalVar):
            calls.append((str(call.op.name_hint), all(map(trusted, call.args))))
        elif isinstance(call.op, relax.ExternFunc):
            if str(call.op.global_symbol) == _VIEW and trusted(call.args[0]):
                inside.add(binding.var)
        elif call.op.name in _ALLOCATE:
            inside.add(binding.var)
    return calls


def _kernels_in(expression: Any) -> list[str]:
    """Return the functions of the module that an expression names, at any depth."""
    found = list[str]()

    def visit(part: Any) -> None:
        if isinstance(part, tvm.ir.GlobalVar):
            found.append(str(part.name_hint))

    relax.analysis.post_order_visit(expression, visit)
    return found


@tvm.transform.module_pass(opt_level=0, name="SkipTrusted")
class SkipTrusted:
    """Take the checks of arguments out of the kernels that `MarkTrusted` has marked."""

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        trusted = {
            name: function for name, function in module.functions_items() if is_trusted(function)
        }
        if not trusted:
            return module
        changed = module.clone()
        skipped = tirx.transform.SkipAssert()(tvm.IRModule(trusted))
        for name, function in skipped.functions_items():
            changed[name] = function
        return changed


def is_trusted(function: tirx.PrimFunc) -> bool:
    """Say whether `MarkTrusted` has marked a kernel."""
    return bool(function.attrs and _TRUSTED in function.attrs)


def without_checks() -> AbstractContextManager[None]:
    """Leave all checks out of every program that is built meanwhile.

    What is built to be run once on known arguments, and compared, needs none.
    """
    context: AbstractContextManager[None] = tvm.transform.PassContext(
        config={**tvm.transform.PassContext.current().config, "tirx.disable_assert": True}
    )
    return context
