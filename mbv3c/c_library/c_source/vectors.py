"""Vectors of TensorIR in C11.

A vector is an expression of the prelude's operations where it has one; anything else is computed
lane by lane, in a loop before the statement.
"""

import tvm
from tvm import tirx

from mbv3c.c_library.c_source.expressions import Scalars
from mbv3c.c_library.c_source.nodes import (
    Expr,
    bare,
    called,
    element_of,
    is_adjacent,
    is_power,
    is_register,
    is_small,
    lanes_of,
    operation_of,
)

_BINARY: dict[type, str] = {
    tirx.Add: "add",
    tirx.Sub: "sub",
    tirx.Mul: "mul",
    tirx.Min: "min",
    tirx.Max: "max",
    tirx.BitwiseAnd: "and",
    tirx.BitwiseOr: "or",
    tirx.BitwiseXor: "xor",
}
_MAGIC = "0x1.8p23f"  # fp32 of less than 2**22 plus this is rounded to a whole number


class Expressions(Scalars):
    """Writes expressions of one function."""

    def vector(self, node: Expr) -> str:
        """Return a vector."""
        kind, dtype, lanes = type(node), element_of(node), lanes_of(node)
        self.type_of(node)
        if dtype == "bool":
            return self._by_lanes(node)
        if kind is tirx.Div and dtype.startswith("float"):
            name = self.prelude.binary("div", dtype, lanes)
            return f"{name}({self.value(node.a)}, {self.value(node.b)})"
        if kind in _BINARY:
            name = self.prelude.binary(_BINARY[kind], dtype, lanes)
            write = self.atom if kind in (tirx.Min, tirx.Max) else self.value
            return f"{name}({write(node.a)}, {write(node.b)})"
        if kind is tirx.Broadcast:
            return f"{self.prelude.splat(dtype, lanes)}({self.atom(node.value)})"
        if kind is tirx.Cast and element_of(node.value) != "bool":
            name = self.prelude.convert(dtype, element_of(node.value), lanes)
            return f"{name}({self.value(node.value)})"
        if kind is tirx.Var:
            return self.names[node]
        if kind is tvm.ir.TensorLoad:
            return self._loaded(node)
        if kind is tirx.Shuffle:
            return self._taken_lanes(node)
        if kind is tvm.ir.Call:
            return self._called(node)
        return self._by_lanes(node)

    def _loaded(self, node: Expr) -> str:
        (index,) = node.indices
        if is_register(node.source):
            with self.index():
                return f"{self.buffers[node.source]}[{bare(self.number(index))}]"
        if not is_adjacent(index):
            return self._by_lanes(node)
        load = self.prelude.load(element_of(node), lanes_of(node))
        return f"{load}({self.place(node.source, index)})"

    def place(self, buffer: Expr, index: Expr) -> str:
        """Return the pointer to the first of adjacent elements."""
        with self.index():
            first = self.number(index.base)
        name = self.buffers[buffer]
        return name if first == "0" else f"{name} + {bare(first)}"

    def _called(self, node: Expr) -> str:
        operation, dtype, lanes = operation_of(node), element_of(node), lanes_of(node)
        if operation == "reinterpret":
            return self._copied(node, self.atom(node.args[0]))
        if not operation.startswith("call_"):
            return self._by_lanes(node)
        name, given = called(node)
        if name == "fmuladd":
            texts = ", ".join(self.value(each) for each in given)
            return f"{self.prelude.multiply_add(dtype, lanes)}({texts})"
        if name == "arithmetic.fence":
            return self.vector(given[0])
        if (
            name in ("nearbyint", "roundeven", "rint")
            and dtype == "float32"
            and is_small(given[0])
        ):
            magic = f"{self.prelude.splat(dtype, lanes)}({_MAGIC})"
            add, sub = (self.prelude.binary(each, dtype, lanes) for each in ("add", "sub"))
            return f"{sub}({add}({self.value(given[0])}, {magic}), {magic})"
        return self._by_lanes(node)

    def _taken_lanes(self, node: Expr) -> str:
        sources, dtype = list(node.vectors), element_of(node)
        order = [int(each) for each in node.indices]
        sizes = {lanes_of(each) for each in sources}
        (size,) = sizes if len(sizes) == 1 else (0,)
        if size > 1 and len(sources) <= 2:
            texts = [self.atom(each) for each in sources]
            name = self.prelude.shuffle(dtype, size, order)
            return f"{name}({texts[0]}, {texts[-1]})"
        if size > 1 and order == list(range(size * len(sources))) and is_power(len(sources)):
            return self._joined([self.atom(each) for each in sources], dtype, size)
        lanes = [
            f"AT({self.atom(each)}, {at})" if lanes_of(each) > 1 else self.number(each)
            for each in sources
            for at in range(lanes_of(each))
        ]
        name = self.fresh("t")
        self.emit(f"{self.type_of(node)} {name} = {{0}};")
        for at, lane in enumerate(order):
            self.emit(f"AT({name}, {at}) = {lanes[lane]};")
        return name

    def _joined(self, texts: list[str], dtype: str, size: int) -> str:
        """Return adjacent vectors as one, joined two by two."""
        while len(texts) > 1:
            size *= 2
            name = self.prelude.shuffle(dtype, size // 2, range(size))
            texts = [
                self.temporary(self.prelude.vector(dtype, size), f"{name}({a}, {b})")
                for a, b in zip(texts[::2], texts[1::2], strict=True)
            ]
        return texts[0]

    def _by_lanes(self, node: Expr) -> str:
        """Compute a vector lane by lane."""
        text = bare(self.number(node, "k"))
        name = self.fresh("t")
        self.emit(f"{self.type_of(node)} {name} = {{0}};")
        self.emit(f"for (int k = 0; k < {lanes_of(node)}; ++k) AT({name}, k) = {text};")
        return name
