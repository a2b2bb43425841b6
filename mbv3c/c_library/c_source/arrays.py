"""Weights as arrays in C11."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3c.c_library.c_source.nodes import float_text
from mbv3c.c_library.c_source.prelude import C_TYPES
from mbv3c.errors import ToolError
from mbv3c.feeds import Array
from mbv3c.lowering.lower import Lowered

_A_LINE = 12  # numbers
_MANTISSA, _BIAS = 23, 150  # bits of fp32, and the exponent of its last bit at 0


@dataclass(frozen=True)
class Weights:
    """The constants of a network as arrays.

    Attributes:
        arrays: the arrays, equal ones once.
        places: which one each step takes, by the position among its arguments.
    """

    arrays: Sequence[Array]
    places: Sequence[dict[int, int]]

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def weights_of(lowered: Lowered) -> Weights:
    """Collect the constants of all steps."""
    arrays, known, places = list[Array](), dict[tuple[str, bytes], int](), list[dict[int, int]]()
    for step in lowered.plan.steps:
        own = {}
        for place, array in step.constants.items():
            key = str(array.dtype), array.tobytes()
            if key not in known:
                known[key] = len(arrays)
                arrays.append(array)
            own[place] = known[key]
        places.append(own)
    return Weights(arrays, places)


def name_of(prefix: str, number: int) -> str:
    """Return what an array is called."""
    return f"{prefix}_weights_{number}"


def declared(prefix: str, weights: Weights) -> list[str]:
    """Return the declaration of each array.

    Raises:
        ToolError: C11 has no such numbers.
    """
    return [
        f"extern const {_type(array)} {name_of(prefix, number)}[{max(1, array.size)}];"
        for number, array in enumerate(weights.arrays)
    ]


def weights_text(prefix: str, weights: Weights, alignment: int) -> str:
    """Return the source with all arrays, each at a multiple of `alignment`."""
    return "\n".join(_lines(prefix, weights, alignment)) + "\n"


def _lines(prefix: str, weights: Weights, alignment: int) -> Iterator[str]:
    yield f'#include "{prefix}_kernels.h"'
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in weights.arrays):
        yield "#include <math.h>"
    for number, array in enumerate(weights.arrays):
        name, size = name_of(prefix, number), max(1, array.size)
        yield ""
        yield f"_Alignas({alignment}) const {_type(array)} {name}[{size}] = {{"
        numbers = _numbers(np.ascontiguousarray(array).ravel()) or ["0"]
        for start in range(0, len(numbers), _A_LINE):
            yield f"  {', '.join(numbers[start : start + _A_LINE])},"
        yield "};"


def _type(array: Array) -> str:
    kind = C_TYPES.get(str(array.dtype))
    if kind is None:
        raise ToolError(
            f"weights of type {array.dtype} cannot be written in C11, which has no such numbers; "
            "`--artifact c` compiles them"
        )
    return kind


def _numbers(flat: Array) -> list[str]:
    """Write numbers exactly."""
    if flat.dtype == np.float32:
        return _singles(flat)
    if flat.dtype.kind == "f":
        return [float_text(value, str(flat.dtype)) for value in flat.tolist()]
    if flat.dtype.kind == "u":
        return [f"{value}u" for value in flat.tolist()]
    if flat.dtype == np.int64:
        return [
            f"INT64_C({value})" if value > -(2**63) else "INT64_MIN" for value in flat.tolist()
        ]
    if flat.dtype == np.int32:
        return [str(value) if value > -(2**31) else "INT32_MIN" for value in flat.tolist()]
    return [str(int(value)) for value in flat.tolist()]


def _singles(flat: Array) -> list[str]:
    """Write fp32 as a whole number in hexadecimal times a power of two."""
    if not np.isfinite(flat).all():
        return [float_text(value, "float32") for value in flat.tolist()]
    bits = flat.view(np.uint32).astype(np.int64)
    exponents = bits >> _MANTISSA & 0xFF
    whole = (bits & ((1 << _MANTISSA) - 1)) | np.where(exponents > 0, 1 << _MANTISSA, 0)
    powers = np.maximum(exponents, 1) - _BIAS
    zeros = np.log2(np.maximum(whole & -whole, 1)).astype(np.int64)
    signs = np.where(bits >> 31, "-", "").tolist()
    return [
        f"{sign}0x{number:x}p{power}f"
        for sign, number, power in zip(
            signs, (whole >> zeros).tolist(), (powers + zeros).tolist(), strict=True
        )
    ]
