"""ONNX to a module of scheduled TensorIR kernels, and the Relax function that calls them.

The virtual machine runs that function:

    def main(x, …):
        block_1 = alloc_storage(bytes)
        a = alloc_tensor(block_1, shape)
        kernel_1(x, weights, a)
        …

TVM's own pipeline brings a program into this form before it makes bytecode. Here the memory is
planned already.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.tirx import PrimFunc
from tvm_ffi import structural_equal, structural_hash

from mbv3c.bundle import entry_name
from mbv3c.lowering.arena import Arena, plan_arena
from mbv3c.lowering.plan import Plan, Step
from mbv3c.lowering.unchecked import MarkTrusted

# What is left of TVM's pipeline for a function whose memory is planned.
VM_PASSES: tuple[tvm.transform.Pass, ...] = (
    MarkTrusted(),
    relax.transform.LowerAllocTensor(),
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
    relax.transform.AttachGlobalSymbol(),
)


def assemble(plan: Plan, arena: Arena) -> tuple[tvm.IRModule, tuple[str, ...]]:
    """Return a module with `main` and every kernel once, and the name of each step's kernel."""
    module, (names,) = assemble_all([(plan, arena)])
    return module, names


def assemble_all(
    programs: Sequence[tuple[Plan, Arena]],
) -> tuple[tvm.IRModule, list[tuple[str, ...]]]:
    """Return a module with `main`, `main_1` and so on, and for each the names of its kernels.

    The functions share equal kernels; TVM stores equal constants once.
    """
    builder = relax.BlockBuilder()
    kernels = _KernelFunctions(builder)
    names = [
        _add_function(builder, kernels, entry_name(index), plan, arena)
        for index, (plan, arena) in enumerate(programs)
    ]
    return builder.get(), names


def _add_function(
    builder: relax.BlockBuilder,
    kernels: "_KernelFunctions",
    name: str,
    plan: Plan,
    arena: Arena,
) -> tuple[str, ...]:
    """Add the function that runs a plan; return the name of each step's kernel."""
    places = {lifetime.value: lifetime.block for lifetime in arena.lifetimes}
    given = [
        relax.Var(f"x{index}", relax.TensorType(shape, plan.values[name].dtype))
        for index, (name, shape) in enumerate(zip(plan.inputs, plan.input_shapes, strict=True))
    ]
    with builder.function(name, given, attrs={"relax.force_pure": True}):
        outputs = _allocate_outputs(builder, plan)
        blocks = [builder.emit(_allocate(size)) for size in arena.blocks]
        views: dict[tuple[str, tuple[int, ...]], Any] = dict(
            zip(zip(plan.inputs, plan.input_shapes, strict=True), given, strict=True)
        )
        views.update(outputs)

        def view(name: str, shape: tuple[int, ...]) -> Any:
            if (name, shape) not in views:
                if name in places:
                    call = relax.op.memory.alloc_tensor(
                        blocks[places[name]], 0, relax.ShapeExpr(shape), plan.values[name].dtype
                    )
                else:
                    unshaped = next(var for (viewed, _), var in views.items() if viewed == name)
                    call = _reshape(unshaped, shape, plan.values[name].dtype)
                views[name, shape] = builder.emit(call)
            return views[name, shape]

        names = []
        for step in plan.steps:
            kernel = kernels.declare(step)
            names.append(str(kernel.name_hint))
            builder.emit(_call(kernel, step, view))
        results = [view(*key) for key in zip(plan.outputs, plan.output_shapes, strict=True)]
        builder.emit_func_output(results[0] if len(results) == 1 else results)
    return tuple(names)


def _allocate(size: int) -> Any:
    return relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")


def _allocate_outputs(
    builder: relax.BlockBuilder, plan: Plan
) -> dict[tuple[str, tuple[int, ...]], Any]:
    return {
        (name, shape): builder.emit(
            relax.op.builtin.alloc_tensor(
                relax.ShapeExpr(shape), plan.values[name].dtype, 0, "global"
            )
        )
        for name, shape in zip(plan.outputs, plan.output_shapes, strict=True)
    }


def _reshape(tensor: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Return a call that makes a tensor of another shape on the same memory."""
    return relax.Call(
        relax.ExternFunc("vm.builtin.reshape"),
        [tensor, relax.ShapeExpr(shape)],
        ty_args=[relax.TensorType(shape, dtype)],
    )


def _call(kernel: Any, step: Step, view: Callable[[str, tuple[int, ...]], Any]) -> Any:
    arguments = []
    for parameter, argument in zip(step.function.params, step.arguments, strict=True):
        shape = tuple(int(extent) for extent in parameter.shape)
        if isinstance(argument, str):
            arguments.append(view(argument, shape))
        else:
            array = np.ascontiguousarray(argument).reshape(shape)
            arguments.append(relax.const(array, str(parameter.dtype)))
    return relax.Call(kernel, arguments)


class _KernelFunctions:
    """The functions of a module: equal kernels are one function."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self._builder = builder
        self._known: dict[int, list[tuple[PrimFunc, Any]]] = {}
        self._counts: dict[str, int] = {}

    def declare(self, step: Step) -> Any:
        function = step.function.without_attr("global_symbol")
        bucket = self._known.setdefault(structural_hash(function), [])
        for known, variable in bucket:
            if structural_equal(known, function):
                return variable
        number = self._counts[step.kind] = self._counts.get(step.kind, 0) + 1
        variable = self._builder.add_func(function, f"{step.kind}_{number}")
        bucket.append((function, variable))
        return variable


@dataclass(frozen=True)
class Lowered:
    """A lowered network.

    Attributes:
        plan: the steps and their values.
        arena: the places of the values in memory.
        module: the kernels, and `main`, which calls them; of a network for several shapes all
            programs.
        kernels: the name in `module` of each step's kernel.
    """

    plan: Plan
    arena: Arena
    module: tvm.IRModule
    kernels: tuple[str, ...]


def assembled(plan: Plan) -> Lowered:
    """Lay the memory of a plan out and assemble a module."""
    arena = plan_arena(plan)
    module, kernels = assemble(plan, arena)
    return Lowered(plan, arena, module, kernels)


def together(lowered: Sequence[Lowered]) -> tuple[Lowered, ...]:
    """Put several programs into one module, with equal kernels and equal constants once."""
    module, names = assemble_all([(one.plan, one.arena) for one in lowered])
    return tuple(
        replace(one, module=module, kernels=kernels)
        for one, kernels in zip(lowered, names, strict=True)
    )


def own_weight_bytes(lowered: Sequence[Lowered]) -> tuple[int, ...]:
    """Return for each of several programs the bytes of constants that none before it has."""
    known: set[tuple[str, tuple[int, ...], bytes]] = set()
    sizes = []
    for one in lowered:
        size = 0
        for array in (a for step in one.plan.steps for a in step.arguments):
            if isinstance(array, str):
                continue
            digest = hashlib.sha256(array.tobytes()).digest()
            key = (str(array.dtype), array.shape, digest)
            size += 0 if key in known else array.nbytes
            known.add(key)
        sizes.append(size)
    return tuple(sizes)
