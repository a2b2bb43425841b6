"""Kernels as functions in C11."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from mbv3c.c_library.c_source.nodes import bare, element_of, is_adjacent, is_made_of, lanes_of
from mbv3c.c_library.c_source.prelude import C_TYPES, Prelude
from mbv3c.c_library.c_source.vectors import Expressions

Stmt = Any  # a statement of TensorIR; TVM has no types for mypy


@dataclass(frozen=True)
class Function:
    """A function in C.

    Attributes:
        declaration: its name and what it takes.
        text: all of it.
    """

    declaration: str
    text: str


def write_function(name: str, function: tirx.PrimFunc, prelude: Prelude) -> Function:
    """Write a kernel that takes raw pointers.

    Raises:
        ToolError: it has something that C11 has not.
    """
    return _Writer(prelude, name).write(function)


class _Writer(Expressions):
    """Writes the statements of one function."""

    def write(self, function: tirx.PrimFunc) -> Function:
        self.written: set[str] = set()
        self.types: dict[str, str] = {}
        for parameter in function.params:
            self.names[parameter] = self.fresh(parameter.name.removesuffix("_at"))
        self.statement(function.body)
        self._drop_unused()
        text = "\n".join(self.lines)
        used = set(re.findall(r"\w+", text))
        parameters, unused = [], []
        for parameter in function.params:
            name = self.names[parameter]
            if name in self.types:
                const = "" if name in self.written else "const "
                parameters.append(f"{const}{self.types[name]} *restrict {name}")
            elif isinstance(parameter.ty, tvm.ir.PointerType):
                parameters.append(f"const void *{name}")
            else:
                parameters.append(f"int64_t {name}")
            if name not in used:
                unused.append(f"  (void){name};\n")
        declaration = f"void {self.function}({', '.join(parameters)})"
        return Function(f"{declaration};", f"{declaration} {{\n{''.join(unused)}{text}\n}}\n")

    def _drop_unused(self) -> None:
        """Take out definitions of names that nothing uses, of which compilers warn."""
        words = [re.findall(r"\w+", line) for line in self.lines]
        counts = Counter(word for line in words for word in line)
        kept = []
        for line, own in zip(reversed(self.lines), reversed(words), strict=True):
            found = re.match(r"\s*(?:const )?\w+ (\w+)(?:\[\d+\])?(?: = .*)?;$", line)
            if found and counts[found[1]] == 1:
                counts.subtract(own)
                continue
            kept.append(line)
        self.lines = kept[::-1]

    # ---- statements ----

    def statement(self, node: Stmt) -> None:
        write = self._STATEMENTS.get(type(node))
        if write is None:
            raise self.refuse(f"a statement {type(node).__name__}")
        write.__get__(self)(node)

    def _sequence(self, node: Stmt) -> None:
        for each in node.seq:
            self.statement(each)

    def _declare(self, node: Stmt) -> None:
        """Give a view of memory a name: that of the memory."""
        buffer, data = node.buffer, node.data
        offset = buffer.elem_offset
        if not _is_zero(offset) and self.names.get(offset) != "0":
            raise self.refuse("a buffer that begins inside of another")
        kind = element_of(buffer)
        if kind not in C_TYPES:
            raise self.refuse(f"numbers of type {kind}, which C11 lacks")
        if isinstance(data, tirx.Var):
            name = self.names[data]
            known = self.types.setdefault(name, C_TYPES[kind])
        else:
            name = self.buffers[data.args[0]]
            known = C_TYPES[element_of(data.args[0])]
        if known != C_TYPES[kind]:
            raise self.refuse("memory that two types share")
        self.buffers[buffer] = name

    def _allocate(self, node: Stmt) -> None:
        buffer = node.buffer
        extent = 1
        for each in buffer.shape:
            extent *= int(each)
        self.buffers[buffer] = self.fresh(buffer.name or "buffer")
        self.emit(f"{self.type_of(buffer)} {self.buffers[buffer]}[{max(1, extent)}];")

    def _bind(self, node: Stmt) -> None:
        variable = node.var
        if _is_zero(node.value):  # as the place where an argument begins, of a scatter's for one
            self.names[variable] = "0"
            return
        if is_made_of(node.value, self.counters):
            self.counters.add(variable)
        if element_of(variable) == "int64" and is_made_of(node.value, self.indices):
            with self.index():
                text = self.value(node.value)
            self.indices.add(variable)
            kind = "ptrdiff_t"
        else:
            text, kind = self.value(node.value), self.type_of(variable)
        self.names[variable] = self.fresh(variable.name)
        self.emit(f"const {kind} {self.names[variable]} = {text};")

    def _store(self, node: Stmt) -> None:
        (index,), buffer, value = node.indices, node.buffer, node.value
        name = self.buffers[buffer]
        self.written.add(name)
        if lanes_of(value) == 1 or lanes_of(buffer) > 1:
            with self.index():
                place = f"{name}[{bare(self.number(index))}]"
            self.emit(f"{place} = {self.value(value)};")
        elif is_adjacent(index):
            text = self.value(value)
            store = self.prelude.store(element_of(value), lanes_of(value))
            self.emit(f"{store}({self.place(buffer, index)}, {text});")
        else:
            with self.index():
                place = bare(self.number(index, "k"))
            text = bare(self.number(value, "k"))
            self.emit(f"for (int k = 0; k < {lanes_of(value)}; ++k) {name}[{place}] = {text};")

    def _loop(self, node: Stmt) -> None:
        variable = node.loop_var
        self.counters.add(variable)
        if element_of(variable) == "int64":
            self.indices.add(variable)
        with self.index():
            kind, first = self.type_of(variable), self.number(node.min)
            extent = self.number(node.extent)
        name = self.names[variable] = self.fresh(variable.name)
        end = extent if first == "0" else f"{first} + {extent}"
        self.emit(f"for ({kind} {name} = {bare(first)}; {name} < {bare(end)}; ++{name}) {{")
        self._block(node.body)
        self.emit("}")

    def _block(self, body: Stmt) -> None:
        self.depth += 1
        self.statement(body)
        self.depth -= 1

    def _while(self, node: Stmt) -> None:
        self.emit("for (;;) {")
        self.depth += 1
        with self.index():
            condition = self.number(node.condition)
        self.emit(f"if (!({bare(condition)})) break;")
        self.statement(node.body)
        self.depth -= 1
        self.emit("}")

    def _if(self, node: Stmt) -> None:
        with self.index():
            condition = self.number(node.condition)
        self.emit(f"if ({bare(condition)}) {{")
        self._block(node.then_case)
        if node.else_case is not None:
            self.emit("} else {")
            self._block(node.else_case)
        self.emit("}")

    def _attribute(self, node: Stmt) -> None:
        self.statement(node.body)

    def _evaluate(self, node: Stmt) -> None:
        if not isinstance(node.value, tirx.IntImm):
            raise self.refuse(f"a call for its effect: {node.value}")

    _STATEMENTS: dict[type, Any] = {
        tirx.SeqStmt: _sequence,
        tirx.DeclBuffer: _declare,
        tirx.AllocBuffer: _allocate,
        tirx.Bind: _bind,
        tirx.BufferStore: _store,
        tirx.For: _loop,
        tirx.While: _while,
        tirx.IfThenElse: _if,
        tirx.AttrStmt: _attribute,
        tirx.Evaluate: _evaluate,
    }


def _is_zero(offset: Any) -> bool:
    return offset is None or (isinstance(offset, tirx.IntImm) and int(offset) == 0)
