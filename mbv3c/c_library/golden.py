"""Test vectors in C: an input of a C library, and a check of what the library makes of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template

import numpy as np

from mbv3c.bundle import Golden, tolerance_text
from mbv3c.c_library.source import Interface, Port, pointer
from mbv3c.feeds import Array, arrays_of

VECTORS = "test"  # the folder, beside the library
_A_LINE = 12  # numbers
_LEAST_INT64 = -(2**63)

_HEADER = Template("""\
/* An input, and a check of what ${prefix}_run makes of it, for a test in the place where it is to
 * run. Inputs lie in ${prefix}_golden_*; write the outputs anywhere. */
#ifndef ${macro}_GOLDEN_H
#define ${macro}_GOLDEN_H

#include "$prefix.h"

#ifdef __cplusplus
extern "C" {
#endif

$inputs

/* Returns 0 if all outputs are within their tolerances of onnxruntime's, which are those of
 * `mbv3c verify`; else the number, from 1, of the first output that is not. */
int ${prefix}_golden_check(const ${prefix}_output_t *out);

#ifdef __cplusplus
}
#endif
#endif
""")


def write_vectors(own: Interface, golden: Golden, folder: Path) -> None:
    """Write PREFIX_golden.h and PREFIX_golden.c into a folder, which is made.

    Nothing is written where a golden output is no number: nothing says then what is right. The
    tolerances are those of the golden files, to the last digit.

    Args:
        own: the library.
        golden: its golden input and outputs.
        folder: where to write.
    """
    if not all(np.isfinite(array).all() for array in golden.outputs):
        return
    golden = replace(golden, allowed=[float(tolerance_text(one)) for one in golden.allowed])
    folder.mkdir()
    inputs = [
        f"extern const {port.c_type} {_name(own, 'in', port)}[{port.elements}];"
        for port in own.inputs
    ]
    words = {"prefix": own.prefix, "macro": own.prefix.upper(), "inputs": "\n".join(inputs)}
    (folder / f"{own.prefix}_golden.h").write_text(_HEADER.substitute(words))
    (folder / f"{own.prefix}_golden.c").write_text("\n".join(_source(own, golden)) + "\n")


def _name(own: Interface, side: str, port: Port) -> str:
    return f"{own.prefix}_golden_{side}put_{port.field}"


def _source(own: Interface, golden: Golden) -> Iterator[str]:
    yield f'#include "{own.prefix}_golden.h"'
    for port, array in zip(own.inputs, arrays_of(golden.input), strict=True):
        yield ""
        yield f"const {port.c_type} {_name(own, 'in', port)}[{port.elements}] = {{"
        yield from _rows(_numbers(array))
        yield "};"
    scales = [*golden.scales] or [None] * len(own.outputs)
    for port, array, scale in zip(own.outputs, golden.outputs, scales, strict=True):
        yield ""
        yield f"static const {port.c_type} wanted_{port.field}[{port.elements}] = {{"
        yield from _rows(_numbers(array))
        yield "};"
        if scale is not None:
            yield f"static const float range_{port.field}[{port.elements}] = {{"
            yield from _rows(_numbers(scale))
            yield "};"
    if any(port.dtype == "float16" for port in own.outputs):
        yield _HALF
    yield ""
    yield f"int {own.prefix}_golden_check(const {own.prefix}_output_t *out) {{"
    for at, port in enumerate(own.outputs):
        yield from _check(own, golden, at, port, scales[at])
    yield "  return 0;"
    yield "}"


# A finite number of IEEE 754 half precision, without a library.
_HALF = """
static float number(uint16_t bits) {
  int exponent = bits >> 10 & 31;
  float value = (float)(bits & 1023) / 1024.0f + (exponent ? 1.0f : 0.0f);
  for (int power = exponent ? exponent : 1; power < 15; ++power) value /= 2.0f;
  for (int power = exponent; power > 15; --power) value *= 2.0f;
  return bits >> 15 ? -value : value;
}"""


def _check(
    own: Interface, golden: Golden, at: int, port: Port, scale: Array | None
) -> Iterator[str]:
    ours, wanted = f"({pointer('out', own.outputs, at)})[k]", f"wanted_{port.field}[k]"
    yield "  {"
    if golden.labels[at]:
        most = int(golden.allowed[at] * port.elements + 0.5)
        yield "    long others = 0;"
        yield f"    for (long k = 0; k < {port.elements}; ++k) others += {ours} != {wanted};"
        yield f"    if (others > {most}) return {at + 1};"
    else:
        array = golden.outputs[at].astype(np.float64)
        no_number = ""
        if port.dtype == "float16":
            no_number = f"({ours} >> 10 & 31) == 31 || "  # an infinity, or none
            ours, wanted = f"number({ours})", f"number({wanted})"
        allowed = f"{golden.allowed[at]:.9e}"
        limit = f"{float(np.ptp(array)) * golden.allowed[at]:.9e}"
        if scale is not None:
            limit = f"{allowed} * (double)range_{port.field}[k]"
        yield f"    for (long k = 0; k < {port.elements}; ++k) {{"
        yield f"      const double error = (double){ours} - (double){wanted};"
        yield f"      const double most = {limit};"
        wrong = f"{no_number}!(error <= most && error >= -most)"
        yield f"      if ({wrong}) return {at + 1};"
        yield "    }"
    yield "  }"


def _numbers(array: Array) -> list[str]:
    """Write numbers in C, exactly."""
    flat = np.ascontiguousarray(array).ravel()
    if flat.dtype == np.float16:
        return [f"0x{bits:04x}" for bits in flat.view(np.uint16).tolist()]
    if flat.dtype.kind == "f":
        digits, end = (9, "f") if flat.dtype == np.float32 else (17, "")
        return [f"{value:.{digits - 1}e}{end}" for value in flat.tolist()]
    if flat.dtype == np.uint64:
        return [f"{value}u" for value in flat.tolist()]
    return [
        "(-9223372036854775807 - 1)" if value == _LEAST_INT64 else str(value)
        for value in flat.astype(np.int64).tolist()
    ]


def _rows(numbers: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(numbers), _A_LINE):
        yield f"  {', '.join(numbers[start : start + _A_LINE])},"
