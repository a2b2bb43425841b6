"""Which kernels a network calls, in which order and on what: data for the driver in its library.

    def main(x):                                def main(x):
        y = alloc_tensor(…)                         y = alloc_tensor(…)
        block_1 = alloc_storage(bytes)      XX
        kernel_1(x, weights, a)                     return y
        kernel_2(a, y)
        return y                                + a program: kernel_1(x, constant, arena + 0), …

TVM's virtual machine would copy every constant twice as a library is opened, and look every kernel
up. The driver uses constants where they lie in the file (`mbv3c.execution.native`). What comes in
and goes out is still checked and allocated by the virtual machine, and a library is called as one
of TVM's. `watched_main` takes what is to be called around each kernel, and then what `main` takes.
"""

from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx

from mbv3c.bundle import WATCHED
from mbv3c.lowering.arena import ALIGNMENT, aligned

RUN = "mbv3c_run"  # the driver's function
INPUT, OUTPUT, ARENA, CONSTANT = PLACES = ("input", "output", "arena", "constant")

_ALLOCATE_OUTPUT = "relax.builtin.alloc_tensor"
_ALLOCATE_BLOCK, _ALLOCATE_IN_BLOCK = "relax.memory.alloc_storage", "relax.memory.alloc_tensor"
_VIEW = "vm.builtin.reshape"


@dataclass(frozen=True)
class Tensor:
    """An argument of a kernel.

    Attributes:
        place: where it lies, one of `PLACES`.
        at: which input, output or constant it is, or its first byte in the arena.
        shape: the extents in which the kernel takes it.
        dtype: the element type.
    """

    place: str
    at: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Call:
    """A call of a kernel."""

    kernel: str
    arguments: tuple[Tensor, ...]


@dataclass
class Function:
    """A function of a library, which runs a network once.

    Attributes:
        name: its name.
        inputs, outputs: what it takes, and what it writes.
        results: which of them, or views of them, it returns.
        arena_bytes: the memory that it needs beside them.
        calls: its calls of kernels, in their order.
    """

    name: str
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    results: tuple[Tensor, ...] = ()
    arena_bytes: int = 0
    calls: list[Call] = field(default_factory=list)


@dataclass
class Program:
    """The functions of a library, and their constants.

    Attributes:
        functions: the functions.
        constants: arrays of TVM's; some may be equal.
    """

    functions: list[Function] = field(default_factory=list)
    constants: list[tvm.runtime.Tensor] = field(default_factory=list)


def program_of(module: tvm.IRModule) -> Program:
    """Read the functions of a module that `mbv3c.lowering.lower` assembled.

    Raises:
        ValueError: a function does something else than such functions do.
    """
    program = Program()
    for name, function in _functions(module):
        program.functions.append(_Reader(program, name).read(function))
    return program


def calls_of(program: Program) -> tvm.IRModule:
    """Return functions that have the driver call the kernels of a program."""
    builder = relax.BlockBuilder()
    for number, function in enumerate(program.functions):
        _add_function(builder, number, function, watched=False)
        _add_function(builder, number, function, watched=True)
    return builder.get()


def kernels_of(module: tvm.IRModule) -> dict[str, tirx.PrimFunc]:
    """Return the kernels of a module by their names."""
    return {
        str(name.name_hint): function
        for name, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc)
    }


def _functions(module: tvm.IRModule) -> list[tuple[str, relax.Function]]:
    """Return the functions that call kernels, `main` first."""
    found = [
        (str(name.name_hint), function)
        for name, function in module.functions_items()
        if isinstance(function, relax.Function)
    ]
    return sorted(found, key=lambda pair: (len(pair[0]), pair[0]))


class _Reader:
    """Reads the bindings of a function one after another."""

    def __init__(self, program: Program, name: str) -> None:
        self._program, self._function = program, Function(name)
        self._known: dict[Any, Tensor] = {}
        self._blocks: dict[Any, int] = {}

    def read(self, function: relax.Function) -> Function:
        made = self._function
        for at, parameter in enumerate(function.params):
            self._known[parameter] = Tensor(INPUT, at, *_type_of(parameter))
            made.inputs.append(self._known[parameter])
        for block in function.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        made.results = self._results(function.body.body)
        return made

    def _bind(self, variable: Any, value: Any) -> None:
        made = self._function
        if not isinstance(value, relax.Call):
            raise ValueError(f"{made.name}: {value} is no call")
        if isinstance(value.op, tvm.ir.GlobalVar):
            arguments = tuple(map(self._argument, value.args))
            made.calls.append(Call(str(value.op.name_hint), arguments))
        elif isinstance(value.op, relax.ExternFunc) and value.op.global_symbol == _VIEW:
            of = self._known[value.args[0]]
            self._known[variable] = Tensor(of.place, of.at, *_type_of(variable))
        elif value.op == tvm.ir.Op.get(_ALLOCATE_OUTPUT):
            self._known[variable] = Tensor(OUTPUT, len(made.outputs), *_type_of(variable))
            made.outputs.append(self._known[variable])
        elif value.op == tvm.ir.Op.get(_ALLOCATE_BLOCK):
            self._blocks[variable] = made.arena_bytes
            made.arena_bytes += aligned(int(value.args[0].values[0]), ALIGNMENT)
        elif value.op == tvm.ir.Op.get(_ALLOCATE_IN_BLOCK):
            begin = self._blocks[value.args[0]]
            self._known[variable] = Tensor(ARENA, begin, *_type_of(variable))
        else:
            raise ValueError(f"{made.name}: {value.op} is called by no function of mbv3c's")

    def _argument(self, value: Any) -> Tensor:
        if not isinstance(value, tvm.ir.GenericConst):
            return self._known[value]
        array, constants = value.value, self._program.constants
        constants.append(array)
        return Tensor(CONSTANT, len(constants) - 1, tuple(array.shape), str(array.dtype))

    def _results(self, value: Any) -> tuple[Tensor, ...]:
        returned = value.fields if isinstance(value, tvm.ir.Tuple) else [value]
        return tuple(self._known[each] for each in returned)


def _type_of(variable: Any) -> tuple[tuple[int, ...], str]:
    kind = variable.ty
    return tuple(int(extent) for extent in kind.shape.values), str(kind.dtype)


def _add_function(
    builder: relax.BlockBuilder, number: int, function: Function, *, watched: bool
) -> None:
    given = [
        relax.Var(f"x{at}", relax.TensorType(one.shape, one.dtype))
        for at, one in enumerate(function.inputs)
    ]
    instrument = relax.Var("instrument", relax.ObjectType())
    name = WATCHED + function.name if watched else function.name
    taken = [instrument, *given] if watched else given
    with builder.function(name, taken, attrs={"relax.force_pure": True}):
        outputs = [builder.emit(_allocate_output(one)) for one in function.outputs]
        size = max(function.arena_bytes, ALIGNMENT)
        storage = relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")
        block = builder.emit(storage)
        arena = builder.emit(
            relax.op.memory.alloc_tensor(block, 0, relax.ShapeExpr([size]), "uint8")
        )
        first = [relax.prim_value(number), instrument if watched else relax.prim_value(0)]
        called = [*first, *given, *outputs, arena]
        builder.emit(relax.Call(relax.ExternFunc(RUN), called, ty_args=[relax.ObjectType()]))
        places = {INPUT: given, OUTPUT: outputs}
        results = [_viewed(builder, places[one.place][one.at], one) for one in function.results]
        builder.emit_func_output(results[0] if len(results) == 1 else results)


def _allocate_output(one: Tensor) -> Any:
    return relax.op.builtin.alloc_tensor(relax.ShapeExpr(one.shape), one.dtype, 0, "global")


def _viewed(builder: relax.BlockBuilder, tensor: Any, wanted: Tensor) -> Any:
    """Return a tensor in a shape that it may not have."""
    if _type_of(tensor)[0] == wanted.shape:
        return tensor
    kind = relax.TensorType(wanted.shape, wanted.dtype)
    shape = relax.ShapeExpr(wanted.shape)
    return builder.emit(relax.Call(relax.ExternFunc(_VIEW), [tensor, shape], ty_args=[kind]))
