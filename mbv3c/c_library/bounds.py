"""Smaller and larger ones of vectors in LLVM's text, as instructions that 32-bit ARM has.

    %c = fcmp olt <4 x float> %a, %b
    %d = select <4 x i1> %c, <4 x float> %a, <4 x float> %b
    ⇒ %d = call <4 x float> @llvm.minimum.v4f32(<4 x float> %a, <4 x float> %b)

The first two differ from `vmin` in what becomes of NaN, which stays NaN in the third, so LLVM
keeps them: as a comparison, masks and their registers.
"""

import re
from collections.abc import Iterator

_VALUE = r"%[\w.]+|zeroinitializer|splat \([^()]*\)"
_COMPARED = re.compile(rf"  (%[\w.]+) = fcmp (olt|ogt) (<(\d+) x float>) ({_VALUE}), ({_VALUE})$")
_CHOSEN = re.compile(
    rf"  (%[\w.]+) = select <\d+ x i1> (%[\w.]+), "
    rf"<\d+ x float> ({_VALUE}), <\d+ x float> ({_VALUE})$"
)
_NAMES = {"olt": "minimum", "ogt": "maximum"}


def with_bounds(text: str) -> str:
    """Return a module in which comparisons that only choose a bound are bounds."""
    declared = set[str]()
    lines = list(_lines(text, declared))
    return "\n".join([*lines, *sorted(declared), ""])


def _lines(text: str, declared: set[str]) -> Iterator[str]:
    compared = dict[str, re.Match[str]]()
    for line in text.splitlines():
        if line.startswith("define "):
            compared.clear()  # names are those of one function
        if (found := _COMPARED.match(line)) is not None:
            compared[found[1]] = found
        chosen = _CHOSEN.match(line)
        known = compared.get(chosen[2]) if chosen is not None else None
        if chosen is None or known is None or (chosen[3], chosen[4]) != (known[5], known[6]):
            yield line
            continue
        kind, function = known[3], f"@llvm.{_NAMES[known[2]]}.v{known[4]}f32"
        declared.add(f"declare {kind} {function}({kind}, {kind})")
        yield f"  {chosen[1]} = call {kind} {function}({kind} {known[5]}, {kind} {known[6]})"
