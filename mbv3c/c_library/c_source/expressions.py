"""Scalar expressions of TensorIR in C11, and lanes of vectors."""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import tirx

from mbv3c.c_library.c_source.nodes import (
    MATH,
    Expr,
    bare,
    called,
    element_of,
    float_text,
    is_made_of,
    is_register,
    lanes_of,
    operation_of,
)
from mbv3c.c_library.c_source.prelude import C_TYPES, Prelude, may_overflow, wrapped
from mbv3c.errors import ToolError

_ATOM = re.compile(r"\w+|\w+\[\w+\]|-?[0-9][0-9a-fx.p+-]*f?")
_INFIX: dict[type, str] = {
    tirx.Add: "+",
    tirx.Sub: "-",
    tirx.Mul: "*",
    tirx.Div: "/",
    tirx.Mod: "%",
    tirx.EQ: "==",
    tirx.NE: "!=",
    tirx.LT: "<",
    tirx.LE: "<=",
    tirx.GT: ">",
    tirx.GE: ">=",
    tirx.And: "&&",
    tirx.Or: "||",
    tirx.RShift: ">>",
    tirx.BitwiseAnd: "&",
    tirx.BitwiseOr: "|",
    tirx.BitwiseXor: "^",
}

# What C, also C23 and that of GNU, or the header of the kernels defines.
_WORDS = """
auto break case char const continue default do double else enum extern float for goto if inline
int long register restrict return short signed sizeof static struct switch typedef union unsigned
void volatile while k memcpy memset memmove linux unix
alignas alignof asm bool constexpr false nullptr static_assert thread_local true typeof
typeof_unqual
"""
_KEPT = frozenset(_WORDS.split())


class Scalars:
    """Writes scalar expressions of one function.

    Attributes:
        prelude: what collects the operations that they need.
        lines: the statements of the function so far.
        names, buffers: what variables and buffers are called.
        indices: the variables of 64 bits that only index.
        counters: the variables that loops and constants give, of any size.
    """

    def __init__(self, prelude: Prelude, function: str) -> None:
        self.prelude = prelude
        self.function = function
        self.lines: list[str] = []
        self.depth = 1
        self.names: dict[Expr, str] = {}
        self.indices: set[Expr] = set()
        self.counters: set[Expr] = set()
        self.buffers: dict[Expr, str] = {}
        self._taken: set[str] = set()
        self._is_index = 0

    # ---- statements and names ----

    def emit(self, line: str) -> None:
        self.lines.append("  " * self.depth + line)

    def fresh(self, wanted: str) -> str:
        """Return a name that nothing else in the function has."""
        base = re.sub(r"\W", "_", wanted).strip("_") or "v"
        base = base if re.match(r"[a-zA-Z]", base) else f"v{base}"
        base = f"{base.lower()}_" if re.match(r"[fiu]\d|[A-Z]", base) or base in _KEPT else base
        name, number = base, 0
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    def temporary(self, kind: str, text: str) -> str:
        """Compute something before the statement; return its name."""
        name = self.fresh("t")
        self.emit(f"const {kind} {name} = {bare(text)};")
        return name

    @contextmanager
    def captured(self) -> Iterator[list[str]]:
        """Collect what is emitted meanwhile, instead of writing it."""
        before, self.lines = self.lines, []
        try:
            yield self.lines
        finally:
            self.lines = before

    @contextmanager
    def index(self) -> Iterator[None]:
        """Write integers of 64 bits as the machine has them: what is computed is an index."""
        self._is_index += 1
        try:
            yield
        finally:
            self._is_index -= 1

    def refuse(self, what: object) -> ToolError:
        return ToolError(
            f"{self.function} cannot be written in C11: it has {what}; `--artifact c` compiles it"
        )

    def type_of(self, node: Expr) -> str:
        """Return the type in C of a value."""
        dtype = element_of(node)
        if dtype not in C_TYPES:
            raise self.refuse(f"numbers of type {dtype}, which C11 lacks")
        if lanes_of(node) > 1:
            return self.prelude.vector(dtype, lanes_of(node))
        return "ptrdiff_t" if self._is_index and dtype == "int64" else C_TYPES[dtype]

    # ---- scalars ----

    def number(self, node: Expr, lane: str = "") -> str:
        """Return a scalar; of a vector that in lane `lane`."""
        kind = type(node)
        if kind in _INFIX:
            return self._infix(node, lane)
        write: Callable[[Expr, str], str] | None = self._SCALARS.get(kind)
        if write is None:
            raise self.refuse(f"{kind.__name__}: {node}")
        text: str = write.__get__(self)(node, lane)
        return text

    def _integer(self, node: Expr, lane: str) -> str:
        value, dtype = int(node.value), element_of(node)
        if dtype == "int64" and not self._is_index:
            if value == -(2**63):
                return "INT64_MIN"
            return f"INT64_C({value})" if value >= 0 else f"(-INT64_C({-value}))"
        if dtype == "int32" and value == -(2**31):
            return "INT32_MIN"
        if dtype in ("uint32", "uint64"):
            return f"UINT{dtype[4:]}_C({value})"
        return str(value) if value >= 0 else f"({value})"

    def _float(self, node: Expr, lane: str) -> str:
        self.type_of(node)
        text = float_text(float(node.value), element_of(node))
        self.prelude.has_math |= "N" in text
        return text

    def _variable(self, node: Expr, lane: str) -> str:
        name = self.names[node]
        if lanes_of(node) > 1:
            return f"AT({name}, {lane})"
        return f"(int64_t){name}" if node in self.indices and not self._is_index else name

    def _infix(self, node: Expr, lane: str) -> str:
        a, b, dtype = self.number(node.a, lane), self.number(node.b, lane), element_of(node)
        sign = _INFIX[type(node)]
        if sign == "%" and dtype.startswith("float"):
            return self._call_math("fmod", dtype, [a, b])
        if (
            may_overflow(dtype, sign)
            and not self._is_index
            and not is_made_of(node, self.counters)
        ):
            return wrapped(C_TYPES[dtype], a, sign, b)
        return self._narrowed(f"({a} {sign} {b})", dtype)

    def _narrowed(self, text: str, dtype: str) -> str:
        """Hold an integer narrower than `int` to its width."""
        return f"({C_TYPES[dtype]}){text}" if dtype[-2:] in ("t8", "16") else text

    def _choice(self, node: Expr, lane: str) -> str:
        operation = "min" if isinstance(node, tirx.Min) else "max"
        kind = "ptrdiff_t" if self._is_index and element_of(node) == "int64" else None
        name = self.prelude.scalar(operation, kind or C_TYPES[element_of(node)])
        return f"{name}({bare(self.number(node.a, lane))}, {bare(self.number(node.b, lane))})"

    def _not(self, node: Expr, lane: str) -> str:
        return f"!{self.number(node.a, lane)}"

    def _inverted(self, node: Expr, lane: str) -> str:
        return self._narrowed(f"(~{self.number(node.a, lane)})", element_of(node))

    def _shifted_left(self, node: Expr, lane: str) -> str:
        a, b = self.number(node.a, lane), self.number(node.b, lane)
        kind = C_TYPES[element_of(node)]
        return f"({kind})((u{kind.lstrip('u')}){a} << {b})"

    def _cast(self, node: Expr, lane: str) -> str:
        text = self.number(node.value, lane)
        if element_of(node) == "bool":
            return f"({text} != 0)"
        with_lane = node.value if lanes_of(node) == 1 else node
        if lanes_of(with_lane) == 1:
            return f"({self.type_of(node)}){text}"
        return f"({C_TYPES[element_of(node)]}){text}"

    def _select(self, node: Expr, lane: str) -> str:
        return self._chosen(node.condition, node.true_value, node.false_value, lane)

    def _chosen(self, condition: Expr, chosen: Expr, other: Expr, lane: str) -> str:
        """Return a choice, of which only the chosen side is computed."""
        with self.index():
            test = self.number(condition, lane)
        with self.captured() as first:
            one = self.number(chosen, lane)
        with self.captured() as second:
            two = self.number(other, lane)
        dtype = element_of(chosen)
        if not first and not second:
            return self._narrowed(f"({test} ? {one} : {two})", dtype)
        if lane:
            raise self.refuse("a vector inside of a choice between lanes")
        name = self.fresh("t")
        self.emit(f"{self.type_of(chosen)} {name};")
        for begin, lines, text in (
            (f"if ({bare(test)}) {{", first, one),
            ("} else {", second, two),
        ):
            self.emit(begin)
            self.lines += ["  " + line for line in lines]
            self.emit(f"  {name} = {bare(text)};")
        self.emit("}")
        return name

    def _broadcast(self, node: Expr, lane: str) -> str:
        return self.number(node.value)

    def _ramp(self, node: Expr, lane: str) -> str:
        return f"({self.number(node.base)} + {self.number(node.stride)} * {lane})"

    def _load(self, node: Expr, lane: str) -> str:
        (index,) = node.indices
        with self.index():
            place = f"{self.buffers[node.source]}[{bare(self.number(index, lane))}]"
        return f"AT({place}, {lane})" if is_register(node.source) else place

    def _shuffled(self, node: Expr, lane: str) -> str:
        if lanes_of(node) > 1:
            return f"AT({self.atom(node)}, {lane})"
        (position,) = (int(each) for each in node.indices)
        for source in node.vectors:
            if position < lanes_of(source):
                if lanes_of(source) == 1:
                    return self.number(source)
                return f"AT({self.atom(source)}, {position})"
            position -= lanes_of(source)
        raise self.refuse("a lane that no vector has")

    def _let(self, node: Expr, lane: str) -> str:
        self.names[node.var] = self.fresh(node.var.name)
        self.emit(
            f"const {self.type_of(node.var)} {self.names[node.var]} = {self.value(node.value)};"
        )
        return self.number(node.body, lane)

    def _call(self, node: Expr, lane: str) -> str:
        operation, given = operation_of(node), list(node.args)
        if operation == "if_then_else":
            condition, chosen, other = given
            return self._chosen(condition, chosen, other, lane)
        if operation == "likely":
            return self.number(given[0], lane)
        if operation == "isnan":
            text = self.number(given[0], lane)
            return f"({text} != {text})"
        if operation == "large_uint_imm":
            low, high = (int(each.value) for each in given)
            return f"UINT64_C({(high << 32) + low})"
        if operation == "reinterpret":
            return self._reinterpreted(node, lane)
        return self._function(node, lane)

    def _function(self, node: Expr, lane: str) -> str:
        name, given = called(node)
        if name == "fmuladd":
            a, b, c = (self.number(each, lane) for each in given)
            return f"({a} * {b} + {c})"
        if name == "arithmetic.fence":
            return self.number(given[0], lane)
        if name not in MATH:
            raise self.refuse(f"the function {name}")
        return self._call_math(
            MATH[name], element_of(node), [self.number(each, lane) for each in given]
        )

    def _call_math(self, name: str, dtype: str, given: Sequence[str]) -> str:
        function = name + {"float32": "f", "float64": ""}[dtype]
        self.prelude.functions.add(function)
        return f"{function}({', '.join(map(bare, given))})"

    def _reinterpreted(self, node: Expr, lane: str) -> str:
        if lanes_of(node) > 1:
            return f"AT({self.atom(node)}, {lane})"
        if lane:
            raise self.refuse("a reinterpreted lane")
        (given,) = node.args
        return self._copied(node, self.atom(given))

    def _copied(self, node: Expr, source: str) -> str:
        """Return a variable with the bytes of another."""
        name = self.fresh("t")
        if not re.fullmatch(r"\w+", source):
            source = self.temporary(self.type_of(node.args[0]), source)
        self.emit(f"{self.type_of(node)} {name};")
        self.emit(f"memcpy(&{name}, &{source}, sizeof {name});")
        return name

    _SCALARS: dict[type, Any] = {
        tirx.Min: _choice,
        tirx.Max: _choice,
        tirx.Not: _not,
        tirx.BitwiseNot: _inverted,
        tirx.LShift: _shifted_left,
        tirx.Cast: _cast,
        tirx.Select: _select,
        tirx.Broadcast: _broadcast,
        tirx.Ramp: _ramp,
        tvm.ir.TensorLoad: _load,
        tirx.Shuffle: _shuffled,
        tirx.Let: _let,
        tirx.IntImm: _integer,
        tirx.FloatImm: _float,
        tirx.Var: _variable,
        tvm.ir.Call: _call,
    }

    @abstractmethod
    def vector(self, node: Expr) -> str:
        """Return a vector."""

    def value(self, node: Expr) -> str:
        """Return a scalar or a vector, without parentheses around it."""
        return bare(self.vector(node) if lanes_of(node) > 1 else self.number(node))

    def atom(self, node: Expr) -> str:
        """Return a value as a name or a number, which may be used several times."""
        text = self.value(node)
        return text if _ATOM.fullmatch(text) else self.temporary(self.type_of(node), text)
