"""What the writers of C11 ask of nodes of TensorIR."""

import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.target import codegen

Expr = Any  # an expression of TensorIR; TVM has no types for mypy

# Functions of math.h, by the names of LLVM and TVM without what stands before the dot.
MATH = {
    **{
        name: name
        for name in (
            *("exp", "exp2", "log", "log2", "log10", "log1p", "sqrt", "pow", "fma", "floor"),
            *("ceil", "trunc", "round", "nearbyint", "rint", "fabs", "copysign", "erf", "fmod"),
            *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"),
            *("asinh", "acosh", "atanh", "cbrt", "hypot", "tgamma", "lgamma", "ldexp"),
        )
    },
    "roundeven": "nearbyint",
}
_EXACT = 2.0**22  # below, fp32 plus 1.5·2**23 is rounded to a whole number


def lanes_of(node: Expr) -> int:
    """Return how many numbers a value has."""
    return int(tvm.DataType(str(node.ty.dtype)).lanes)


def element_of(node: Expr) -> str:
    """Return the type of an element, as numpy calls it."""
    return str(node.ty.dtype).partition("x")[0]


def is_register(buffer: Expr) -> bool:
    """Say whether the elements of a buffer are vectors."""
    return lanes_of(buffer) > 1


def bare(text: str) -> str:
    """Take away parentheses around a whole expression."""
    if not text.startswith("("):
        return text
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[1:-1] if at == len(text) - 1 else text
    return text


def float_text(value: float, dtype: str) -> str:
    """Write a number exactly."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    if dtype == "float32":
        value = float(np.float32(value))
    text = re.sub(r"\.?0*p", "p", value.hex()) + ("f" if dtype == "float32" else "")
    return f"({text})" if text.startswith("-") else text


def is_adjacent(index: Expr) -> bool:
    """Say whether a vector's index means elements side by side, as many as a vector has."""
    return (
        isinstance(index, tirx.Ramp)
        and isinstance(index.stride, tirx.IntImm)
        and int(index.stride) == 1
        and is_power(lanes_of(index))
    )


def is_made_of(node: Expr, variables: Collection[Expr]) -> bool:
    """Say whether an integer comes of some variables and of constants alone."""
    if isinstance(node, tirx.IntImm):
        return True
    if isinstance(node, tirx.Var):
        return node in variables
    if type(node) in (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.Min, tirx.Max):
        return is_made_of(node.a, variables) and is_made_of(node.b, variables)
    return isinstance(node, tirx.Cast) and is_made_of(node.value, variables)


def is_power(number: int) -> bool:
    """Say whether a number is a power of two."""
    return number & (number - 1) == 0


def operation_of(call: Expr) -> str:
    """Return what a call does, without what stands before the dot."""
    return str(call.op.name).rpartition(".")[2]


def called(node: Expr) -> tuple[str, list[Expr]]:
    """Return the function that a call names, without what says whose it is, and its arguments."""
    operation, given = operation_of(node), list(node.args)
    if operation.startswith("call_llvm"):
        return codegen.llvm_get_intrinsic_name(int(given[0])).removeprefix("llvm."), given[1:]
    if operation in ("call_extern", "call_pure_extern"):
        name = str(given[0].value)
        return name[:-1] if name[:-1] in MATH else name, given[1:]
    return operation, given


def is_small(node: Expr) -> bool:
    """Say whether a number was clamped to a range in which a sum rounds it."""
    found = set()
    for _ in range(2):
        if not isinstance(node, tirx.Min | tirx.Max):
            return False
        bound = node.b.value if isinstance(node.b, tirx.Broadcast) else node.b
        if not isinstance(bound, tirx.FloatImm) or abs(float(bound.value)) > _EXACT:
            return False
        found.add(type(node))
        node = node.a
    return len(found) == 2
