"""Kernels as plain C functions: pointers in, nothing of TVM's runtime behind them.

TVM wraps a kernel in a function that unpacks and checks its arguments, asks the runtime for large
buffers, and has it share loops between cores. Here each of these three goes another way: buffers
become pointers; what is too large for a stack becomes a parameter, for which the caller plans
memory; and a loop for several cores becomes a function of its own, which gets the turns to run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.analysis import undefined_vars

from mbv3c.execution.link import is_armv7
from mbv3c.lowering.schedules.emit import KERNEL
from mbv3c.lowering.tir_pipeline import TIR_PASSES

ON_STACK = 1024  # the largest buffer, in bytes, that stays on the stack

_FLAT = ("tirx.BF16ComputeLegalize",)  # before it every buffer has got one index
_LONG = ("int64", "uint64")
_PACKED = ("tirx.MakePackedAPI",)  # after it come passes that want its result


@dataclass(frozen=True)
class Segment:
    """A part of a kernel, which is a function by itself.

    Attributes:
        function: the name of the function.
        turns: the number of turns of its loop, which cores may share; None for no such loop. A
            function with a loop takes the first turn and the end of the turns last, as int64.
    """

    function: str
    turns: int | None


@dataclass(frozen=True)
class RawKernel:
    """A kernel as functions that take pointers to its arguments and then to its scratch memory.

    Attributes:
        segments: the functions, in the order in which they run.
        scratch: the bytes of each buffer that the caller provides.
    """

    segments: tuple[Segment, ...]
    scratch: tuple[int, ...]


@dataclass(frozen=True)
class RawKernels:
    """All kernels of a network.

    Attributes:
        module: the functions, ready for code generation.
        kernels: what became of each kernel, by its name.
    """

    module: tvm.IRModule
    kernels: Mapping[str, RawKernel]


def raw_kernels(module: tvm.IRModule, target: tvm.target.Target, prefix: str) -> RawKernels:
    """Lower the kernels of a module to functions that take raw pointers.

    Args:
        module: scheduled kernels; functions that are no kernels are left out.
        target: the processor.
        prefix: what the name of every function begins with.
    """
    named = {
        str(name.name_hint): function.with_attr("global_symbol", str(name.name_hint))
        for name, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }
    bound = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(named))
    end = next(at for at, each in enumerate(TIR_PASSES) if each.info.name in _PACKED)
    passes = TIR_PASSES[:end]
    if is_armv7(str(target.attrs["mtriple"])):
        at = next(at for at, each in enumerate(passes) if each.info.name in _FLAT)
        passes = (*passes[:at], ShortIndices(), *passes[at:])
    lowered = tvm.transform.Sequential(passes)(bound)
    functions: dict[str, tirx.PrimFunc] = {}
    kernels = {}
    for name, function in lowered.functions.items():
        kernel, made = _raw(function, f"{prefix}_{name.name_hint}")
        kernels[str(name.name_hint)] = kernel
        functions.update(made)
    finish = tvm.transform.Sequential(
        [
            tirx.transform.FP8StorageLegalize(),
            tirx.transform.BF16StorageLegalize(),
            tirx.transform.LowerIntrin(),
        ]
    )
    return RawKernels(finish(tvm.IRModule(functions, attrs=lowered.attrs)), kernels)


@tvm.transform.module_pass(opt_level=0, name="ShortIndices")
class ShortIndices:
    """Give our kernels' loops and indices 32 bits, as pointers have.

    Their 64 bits (see `emit.loop`) take two registers each, and several instructions in every turn
    of a loop. Kernels with tensors of 64 bits stay as they are, which are few and small.
    """

    def transform_module(
        self, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        own = {
            name: function
            for name, function in module.functions_items()
            if function.attrs
            and KERNEL in function.attrs
            and not any(str(each.ty.dtype) in _LONG for each in function.params)
        }
        if not own:
            return module
        changed = module.clone()
        shorter = tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule(own))
        for name, function in shorter.functions_items():
            changed[name] = function
        return changed


def _raw(function: tirx.PrimFunc, symbol: str) -> tuple[RawKernel, dict[str, tirx.PrimFunc]]:
    """Cut a lowered kernel into functions of pointers, which `symbol` names."""
    pointers, declared = [], []
    for parameter in function.params:
        pointer = tirx.Var(f"{parameter.name}_at", tvm.ir.PointerType(parameter.ty.dtype))
        pointers.append(pointer)
        declared += [*_begins(parameter), tirx.DeclBuffer(parameter, data=pointer)]
    parts = _cut(list(_statements(function.body)), list(function.params))
    scratch = _Scratch(everything=len(parts) > 1)
    bodies = [[scratch.taken_out(each) for each in part.statements] for part in parts]
    segments, functions = [], {}
    for number, (part, body) in enumerate(zip(parts, bodies, strict=True)):
        name = symbol if len(parts) == 1 else f"{symbol}_{number}"
        parameters, turns = [*pointers, *scratch.pointers], None
        if part.shared:
            bounds = tirx.Var("first_turn", "int64"), tirx.Var("end_of_turns", "int64")
            parameters, turns = [*parameters, *bounds], int(body[-1].extent)
            body = [*body[:-1], _some_turns(body[-1], *bounds)]
        made = tirx.PrimFunc(
            parameters, _sequence([*declared, *body]), function.ret_type, function.attrs
        )
        functions[name] = made.with_attr("global_symbol", name).without_attr("tirx.is_entry_func")
        segments.append(Segment(name, turns))
    return RawKernel(tuple(segments), tuple(scratch.sizes)), functions


def _begins(buffer: tirx.Buffer) -> list[tirx.Stmt]:
    """Say that a buffer begins where its pointer points, if the kernel has a name for that.

    TVM's operators that are no loops over blocks, as scatters, have one.
    """
    offset = buffer.elem_offset
    return (
        [tirx.Bind(offset, tirx.const(0, offset.ty.dtype))] if isinstance(offset, tirx.Var) else []
    )


@dataclass(frozen=True)
class _Part:
    """Statements of a kernel; cores share the turns of the last one if it is `shared`."""

    statements: Sequence[tirx.Stmt]
    shared: bool


def _cut(statements: Sequence[tirx.Stmt], given: Sequence[tirx.Var]) -> Sequence[_Part]:
    """Cut a kernel's statements where loops begin that cores share, and where they end.

    Every part begins with all definitions before it, but for registers, which are of one part. A
    kernel is left whole if a loop needs memory for each of its turns, or parts share a register.
    """
    whole = [_Part(statements, shared=False)]
    loops = [each for each in statements if _is_shared(each)]
    if not loops or any(map(_needs_memory, loops)):
        return whole
    parts, known = list[_Part](), list[tirx.Stmt]()
    for shared, run in groupby(statements, key=_is_shared):
        fresh = list(run)
        if shared:
            parts += [_Part([*known, loop], shared=True) for loop in fresh]
            continue
        if not all(map(_is_definition, fresh)):
            parts.append(_Part([*known, *fresh], shared=False))
        known += [each for each in fresh if _is_definition(each) and not _is_register(each)]
    closed = all(not undefined_vars(_sequence(part.statements), given) for part in parts)
    return parts if closed else whole


def _sequence(statements: Sequence[tirx.Stmt]) -> tirx.Stmt:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def _statements(body: tirx.Stmt) -> Iterator[tirx.Stmt]:
    """Yield the statements of a body, with nested sequences in line."""
    if isinstance(body, tirx.SeqStmt):
        for each in body.seq:
            yield from _statements(each)
    else:
        yield body


def _is_definition(statement: tirx.Stmt) -> bool:
    return isinstance(statement, tirx.DeclBuffer | tirx.AllocBuffer | tirx.Bind)


def _is_register(statement: tirx.Stmt) -> bool:
    return isinstance(statement, tirx.AllocBuffer) and statement.buffer.scope() != "global"


def _is_shared(statement: tirx.Stmt) -> bool:
    return isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL


def _needs_memory(loop: tirx.For) -> bool:
    scratch = _Scratch(everything=False)
    scratch.taken_out(loop)
    return bool(scratch.sizes)


def _some_turns(loop: tirx.For, first: tirx.Var, end: tirx.Var) -> tirx.For:
    """Return a loop that runs some of its turns, counted from 0."""
    kind = loop.loop_var.ty.dtype
    return _loop(
        loop, loop.min + first.astype(kind), end.astype(kind) - first.astype(kind), loop.body
    )


def _loop(
    loop: tirx.For,
    first: Any,
    turns: Any,
    body: tirx.Stmt,
    kind: tirx.ForKind = tirx.ForKind.SERIAL,
) -> tirx.For:
    """Return a loop with other bounds and another body."""
    return tirx.For(loop.loop_var, first, turns, kind, body, loop.thread_binding, loop.annotations)


class _Scratch:
    """The buffers of a kernel that its caller provides.

    Attributes:
        pointers: the parameters that point to them.
        sizes: their bytes.
    """

    def __init__(self, *, everything: bool) -> None:
        """Take out what is larger than `ON_STACK`, or every buffer in memory."""
        self._largest = 0 if everything else ON_STACK - 1
        self._known: dict[Any, tirx.Var] = {}
        self.pointers: list[tirx.Var] = []
        self.sizes: list[int] = []

    def taken_out(self, statement: tirx.Stmt) -> tirx.Stmt:
        """Return a statement in which such buffers lie behind pointers, and one core runs all."""
        if isinstance(statement, tirx.AllocBuffer):
            return self._placed(statement)
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([self.taken_out(each) for each in statement.seq])
        if isinstance(statement, tirx.For):
            kind = tirx.ForKind.SERIAL if _is_shared(statement) else tirx.ForKind(statement.kind)
            body = self.taken_out(statement.body)
            return _loop(statement, statement.min, statement.extent, body, kind)
        if isinstance(statement, tirx.While):
            return tirx.While(statement.condition, self.taken_out(statement.body))
        if isinstance(statement, tirx.AttrStmt):
            body = self.taken_out(statement.body)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
        if isinstance(statement, tirx.IfThenElse):
            otherwise = statement.else_case
            return tirx.IfThenElse(
                statement.condition,
                self.taken_out(statement.then_case),
                None if otherwise is None else self.taken_out(otherwise),
            )
        return statement

    def _placed(self, allocation: tirx.AllocBuffer) -> tirx.Stmt:
        buffer = allocation.buffer
        size = _bytes(buffer)
        if buffer.scope() != "global" or size <= self._largest:
            return allocation
        if buffer not in self._known:
            pointer = tirx.Var(
                f"{buffer.name or 'scratch'}_at", tvm.ir.PointerType(buffer.ty.dtype)
            )
            self._known[buffer] = pointer
            self.pointers.append(pointer)
            self.sizes.append(size)
        return tirx.DeclBuffer(buffer, data=self._known[buffer])


def _bytes(buffer: Any) -> int:
    lanes = tvm.DataType(str(buffer.ty.dtype))
    extents = [int(extent) for extent in buffer.ty.shape]
    return prod(extents) * max(1, int(lanes.bits) * int(lanes.lanes) // 8)
