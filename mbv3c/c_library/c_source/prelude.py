"""Vectors in C11: what the kernels of a library need, in two spellings.

Compilers that know vectors (clang, and gcc from version 12 on) get theirs; for any other a vector
is a struct with an array, and what is done with vectors are loops. Both compute equal numbers.
"""

import re
from collections.abc import Sequence
from string import Template

_SHORT = {
    "float32": "f32",
    "float64": "f64",
    "bool": "u8",
    **{
        f"{sign}int{bits}": f"{sign or 'i'}{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_BITS = {
    "f32": 32,
    "f64": 64,
    **{f"{sign}{bits}": bits for sign in "iu" for bits in (8, 16, 32, 64)},
}
_ELEMENTS = {_SHORT[dtype]: name for dtype, name in C_TYPES.items() if dtype != "bool"}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^"}
_CHOICES = {"min": "<", "max": ">"}

_TEXT = Template("""\
/* Vectors as the kernels of $prefix use them. */
#ifndef ${macro}_VECTORS_H
#define ${macro}_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>$math

/* Compilers that know vectors get vectors; all others, and those that are told to, get loops. */
#if !defined(${macro}_PLAIN) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12))
#define AT(vector, lane) ((vector)[lane])
$vectors
#else
#define AT(vector, lane) ((vector).at[lane])
$structs
#endif
$scalars
#endif
""")


def wrapped(kind: str, a: str, sign: str, b: str) -> str:
    """Return a sum, difference or product of whole numbers that wraps around, as in LLVM.

    In C, one that is too large for a signed type has no meaning, and a uint16_t becomes an int.
    """
    wide = "uint32_t" if kind == "uint16_t" else f"u{kind.lstrip('u')}"
    return f"({kind})(({wide}){a} {sign} ({wide}){b})"


def may_overflow(dtype: str, sign: str) -> bool:
    """Say whether C gives an operation on a type no meaning where the result is too large."""
    return (dtype in ("int32", "int64") and sign in "+-*") or (dtype == "uint16" and sign == "*")


class Prelude:
    """Collects what some kernels need of vectors, and writes it.

    Attributes:
        functions: the functions of math.h that kernels call.
        has_math: whether math.h must be included.
    """

    def __init__(self) -> None:
        self.functions: set[str] = set()
        self.has_math = False
        self._types: dict[str, tuple[str, int]] = {}
        self._vectors: dict[str, str] = {}
        self._structs: dict[str, str] = {}
        self._scalars: dict[str, str] = {}
        self._shuffles: dict[tuple[str, int, tuple[int, ...]], str] = {}

    def text(self, prefix: str, kernels: str) -> str:
        """Return the header with what the text of some kernels uses."""
        words = set(re.findall(r"\w+", kernels))
        types = [self._type(name, *of) for name, of in sorted(self._types.items())]
        vectors, structs, scalars = (
            [text for name, text in made.items() if name in words]
            for made in (self._vectors, self._structs, self._scalars)
        )
        return _TEXT.substitute(
            prefix=prefix,
            macro=prefix.upper(),
            math="\n#include <math.h>" if self.has_math or self.functions else "",
            vectors="\n".join([*(each[0] for each in types), *vectors]),
            structs="\n".join([*(each[1] for each in types), *structs]),
            scalars="\n".join(["", *scalars]) if scalars else "",
        )

    def vector(self, dtype: str, lanes: int) -> str:
        """Return the name of a vector type."""
        return self._named(_SHORT[dtype], lanes)

    def _named(self, short: str, lanes: int) -> str:
        name = f"{short}x{lanes}"
        self._types[name] = short, lanes
        return name

    def _type(self, name: str, short: str, lanes: int) -> tuple[str, str]:
        element, size = _ELEMENTS[short], _BITS[short] // 8
        stored = 1 << (lanes - 1).bit_length()
        whole = f"__attribute__((vector_size({stored * size})))"
        at_any = f"__attribute__((vector_size({stored * size}), aligned({size}), may_alias))"
        return (
            f"typedef {element} {name} {whole};\ntypedef {element} {name}_any {at_any};",
            f"typedef struct {{ {element} at[{stored}]; }} {name};",
        )

    def binary(self, operation: str, dtype: str, lanes: int) -> str:
        """Return the name of an operation on two vectors, by its key in a table above.

        min and max use their operands twice.
        """
        kind = self.vector(dtype, lanes)
        name, short = f"{kind}_{operation}", _SHORT[dtype]
        if name in self._vectors:
            return name
        if operation in _CHOICES:
            number = f"a.at[k] {_CHOICES[operation]} b.at[k] ? a.at[k] : b.at[k]"
            mask = self._named(f"i{_BITS[short]}", lanes)
            test = f"({mask})((a) {_CHOICES[operation]} (b))"
            vector = f"(({kind})((({mask})(a) & {test}) | (({mask})(b) & ~{test})))"
        else:
            sign = _SIGNS[operation]
            number, vector = f"a.at[k] {sign} b.at[k]", f"((a) {sign} (b))"
            if short[0] == "i":  # signed sums must not overflow in C
                wide = self._named(f"u{short[1:]}", lanes)
                vector = f"(({kind})(({wide})(a) {sign} ({wide})(b)))"
            if may_overflow(dtype, sign):
                number = wrapped(_ELEMENTS[short], "a.at[k]", sign, "b.at[k]")
            elif short[0] != "f" and _BITS[short] < 32:
                number = f"({_ELEMENTS[short]})({number})"
        self._add(name, f"{name}(a, b) {vector}", kind, f"{kind} a, {kind} b", number, lanes)
        return name

    def multiply_add(self, dtype: str, lanes: int) -> str:
        """Return the name of a·b + c."""
        kind = self.vector(dtype, lanes)
        name, number = f"{kind}_muladd", "a.at[k] * b.at[k] + c.at[k]"
        given = f"{kind} a, {kind} b, {kind} c"
        self._add(name, f"{name}(a, b, c) ((a) * (b) + (c))", kind, given, number, lanes)
        return name

    def splat(self, dtype: str, lanes: int) -> str:
        """Return the name of what puts a number into all lanes; it uses the number many times."""
        kind = self.vector(dtype, lanes)
        name, stored = f"{kind}_splat", 1 << (lanes - 1).bit_length()
        macro = f"{name}(x) (({kind}){{{', '.join(['(x)'] * stored)}}})"
        self._add(name, macro, kind, f"{C_TYPES[dtype]} x", "x", lanes)
        return name

    def convert(self, dtype: str, given: str, lanes: int) -> str:
        """Return the name of a conversion of a vector of `given` to one of `dtype`."""
        kind, source = self.vector(dtype, lanes), self.vector(given, lanes)
        name = f"{kind}_from_{_SHORT[given]}"
        macro = f"{name}(a) __builtin_convertvector(a, {kind})"
        number = f"({C_TYPES[dtype]})a.at[k]"
        self._add(name, macro, kind, f"{source} a", number, lanes)
        return name

    def load(self, dtype: str, lanes: int) -> str:
        """Return the name of what loads a vector from a pointer."""
        kind = self.vector(dtype, lanes)
        name = f"{kind}_load"
        self._vectors[name] = f"#define {name}(from) (*(const {kind}_any *)(from))"
        self._structs[name] = (
            f"static {kind} {name}(const {C_TYPES[dtype]} *from) {{\n"
            f"  {kind} y;\n  memcpy(&y, from, sizeof y);\n  return y;\n}}"
        )
        return name

    def store(self, dtype: str, lanes: int) -> str:
        """Return the name of what stores a vector at a pointer."""
        kind = self.vector(dtype, lanes)
        name = f"{kind}_store"
        self._vectors[name] = f"#define {name}(to, y) (*({kind}_any *)(to) = (y))"
        self._structs[name] = (
            f"static void {name}({C_TYPES[dtype]} *to, {kind} y) {{\n"
            f"  memcpy(to, &y, sizeof y);\n}}"
        )
        return name

    def shuffle(self, dtype: str, given: int, order: Sequence[int]) -> str:
        """Return the name of what takes lanes of two vectors of `given` lanes."""
        key = _SHORT[dtype], given, tuple(order)
        kind, source = self.vector(dtype, len(order)), self.vector(dtype, given)
        if key in self._shuffles:
            return self._shuffles[key]
        name = self._shuffles[key] = f"{kind}_take_{len(self._shuffles)}"
        lanes = ", ".join(map(str, order))
        self._vectors[name] = f"#define {name}(a, b) __builtin_shufflevector(a, b, {lanes})"
        numbers = (f"a.at[{at}]" if at < given else f"b.at[{at - given}]" for at in order)
        self._structs[name] = (
            f"static {kind} {name}({source} a, {source} b) {{\n  (void)b;\n"
            f"  const {kind} y = {{{{{', '.join(numbers)}}}}};\n  return y;\n}}"
        )
        return name

    def scalar(self, operation: str, kind: str) -> str:
        """Return the name of min or max of two numbers of a type in C."""
        name = f"{operation}_{kind}"
        sign = _CHOICES[operation]
        self._scalars[name] = (
            f"static inline {kind} {name}({kind} a, {kind} b) {{ return a {sign} b ? a : b; }}"
        )
        return name

    def _add(self, name: str, macro: str, kind: str, given: str, number: str, lanes: int) -> None:
        """Add an operation: as a macro, and as a function with the number of lane k."""
        self._vectors[name] = f"#define {macro}"
        self._structs[name] = (
            f"static {kind} {name}({given}) {{\n  {kind} y = {{{{0}}}};\n"
            f"  for (int k = 0; k < {lanes}; ++k) y.at[k] = {number};\n  return y;\n}}"
        )
