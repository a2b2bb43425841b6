"""How sums become int8: bounds, zero point, and factors of fp32 or of fixed point."""

from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.cpu.schedules.integer.gates import Gate

_GROUP = 4  # sums that NEON rounds at once
_MOST_PLACES = 8  # that NEON rounds from int16 to int8
_STEPS = 256.0  # from any zero point to where int8 saturates, at most
_MOST_LOST = 2.0**-15  # of a step, by fixed-point factors; rounding then differs as rarely


@dataclass(frozen=True)
class Requantization:
    """How sums become int8.

    Attributes:
        zero: zero point of the int8.
        low, high: bounds of the int8, if a clamp follows.
        lookup: whether each int8 is then looked up in a table.
        small: whether what is rounded is known to stay within int16, whatever the inputs.
        shift: binary places that are rounded, if factors are fixed-point numbers, in units of
            2^-(31 + shift); 0 if they are fp32.
    """

    zero: int
    low: int = -128
    high: int = 127
    lookup: bool = False
    small: bool = False
    shift: int = 0

    @property
    def typical(self) -> "Requantization":
        """What stands for all requantizations by the same instructions with other numbers."""
        low, high = (0 if self.low > -128 else -128), (0 if self.high < 127 else 127)
        zero, shift = min(1, abs(self.zero)), min(1, self.shift)
        return Requantization(zero, low, high, self.lookup, self.small, shift)

    @property
    def factor_type(self) -> str:
        """The type of the factors."""
        return "int32" if self.shift else "float32"


@dataclass(frozen=True)
class Gated(Requantization):
    """How sums become int8 of which an activation is computed.

    Attributes:
        gate: the activation of the rounded sums, less the zero point.
    """

    gate: Gate = field(kw_only=True)

    @property
    def typical(self) -> "Gated":
        return Gated(*asdict(super().typical).values(), gate=self.gate.typical)


def within(output: Requantization, reach: float) -> Requantization:
    """Return how values become int8 that are no larger than `reach`."""
    return replace(output, small=reach + abs(output.zero) + 1 < np.iinfo(np.int16).max)


def in_fixed_point(
    output: Requantization, reach: NDArray[np.float64], scale: NDArray[np.float32]
) -> tuple[Requantization, NDArray[np.int32 | np.float32]]:
    """Return how sums become int8 by fixed-point factors, where that gives the int8 of fp32.

    A sum times a factor is cut below `shift` binary places, and these are rounded with halves up.
    So it is rounded once, and as in fp32 unless it is a half. The factors of fp32, of 24 bits, are
    held to the bit where they are not much smaller than the largest of them.

    Args:
        output: how sums become int8 by factors of fp32.
        reach: the largest magnitude of the sums of each output.
        scale: their factors.

    Returns:
        What is given, if a sum may be a half, leaves int16, or would lose too many digits.
    """
    if len(scale) % _GROUP or not (np.isfinite(reach).all() and _is_normal(scale)):
        return output, scale
    steps = scale.astype(np.float64)
    largest = float((reach * steps).max()) + abs(output.zero) + 1
    room = min(np.iinfo(np.int16).max / largest, 1 / steps.max())
    shift = min(int(np.ceil(np.log2(room))) - 1, _MOST_PLACES)  # what fits, without the limit
    if shift < 1:
        return output, scale
    exact = steps * 2.0 ** (31 + shift)
    factors = np.rint(exact).astype(np.int64)
    counted = np.minimum(reach, _STEPS / steps)  # larger sums saturate
    lost = np.abs(exact - factors) * counted / 2.0 ** (31 + shift)
    # A half takes as many factors of two, in the sum and in its factor.
    twos = np.frexp(counted)[1] - 1 + np.frexp(factors & -factors)[1] - 1
    if (lost > _MOST_LOST).any() or (twos >= 30 + shift).any():
        return output, scale
    return replace(output, shift=shift), factors.astype(np.int32)


def _is_normal(scale: NDArray[np.float32]) -> bool:
    return bool((np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all())
