"""Activations of int8 that are computed where others look them up: hard-swish and hard-sigmoid.

    t = rounded sum, in fp32           y = factor · t · clip(slope · t + shift, low, high)

x86 has no instruction that looks up one of 256 bytes for each of 16: that takes three instructions
or more for each. This takes one, and is only taken where it gives the table for all of its
entries: the operations here and in the kernel are those of IEEE 754, in one order.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Activation, Expr

_NUDGES = 8  # steps of fp32 by which a factor is moved until all entries are right
_MOST = np.iinfo(np.int16).max
_MINIMUM, _MAXIMUM = "x86.avx.min.ps.256", "x86.avx.max.ps.256"
_LANES = 8


@dataclass(frozen=True)
class Gate:
    """An activation of a rounded sum t, in steps of its result.

    Attributes:
        slope, shift: of the gate.
        low, high: bounds of the gate.
        gated: whether the result is t times the gate, or the gate.
        factor: steps of the result in a step of t, or in one of the gate.
        zero: zero point of the result.
    """

    slope: float
    shift: float
    low: float
    high: float
    gated: bool
    factor: float
    zero: int

    @property
    def typical(self) -> "Gate":
        """What stands for all gates by the same instructions with other numbers."""
        return Gate(1 / 64, 0.5, 0.0, 1.0, self.gated, 1.0, min(1, abs(self.zero)))

    def results(self, t: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return what the kernels compute."""
        numbers = (self.slope, self.shift, self.low, self.high, self.factor)
        slope, shift, low, high, factor = np.array(numbers, np.float32)
        gate = np.minimum(np.maximum(t * slope + shift, low), high)
        y = (t * factor) * gate if self.gated else gate * factor
        results: NDArray[np.int8] = np.clip(np.rint(y) + self.zero, -128, 127).astype(np.int8)
        return results

    def emit(self, value: Expr, lanes: int, least: int, most: int) -> Expr:
        """Return the result of a vector of fp32 sums, in its steps, not yet rounded.

        `least` and `most` bound the rounded sums.
        """

        def splat(number: float) -> Expr:
            return emit.splat(number, lanes, "float32")

        def between(x: Expr, low: float, high: float) -> Expr:
            if lanes != _LANES:
                return T.max(T.min(x, splat(high)), splat(low))
            # By name: LLVM makes three instructions of a maximum beside a rounding.
            bounded = emit.intrinsic("float32", lanes, _MINIMUM, x, splat(high))
            return emit.intrinsic("float32", lanes, _MAXIMUM, bounded, splat(low))

        rounded = between(tirx.nearbyint(value), float(least), float(most))
        t = emit.held(rounded, lanes, "float32")
        # Fenced: a fused multiply-add would round once where `results` rounds twice.
        product = emit.intrinsic("float32", lanes, "arithmetic.fence", t * splat(self.slope))
        gate = between(product + splat(self.shift), self.low, self.high)
        return (t * splat(self.factor)) * gate if self.gated else gate * splat(self.factor)


def gate_for(
    activation: Activation,
    step: float,
    written: float,
    zero: int,
    sums: NDArray[np.int64],
    table: NDArray[np.int8],
) -> Gate | None:
    """Return a gate that gives all entries of a table; None if there is none.

    Args:
        activation: the activation.
        step: value of a step of the rounded sums.
        written: value of a step of the results.
        zero: zero point of the results.
        sums: all rounded sums.
        table: the result of each.
    """
    if activation.low is None or activation.high is None:
        return None
    gate = Gate(
        float(np.float32(activation.scale * step)),
        float(np.float32(activation.shift)),
        float(activation.low),
        float(activation.high),
        activation.gated,
        1.0,
        zero,
    )
    t = sums.astype(np.float32)
    exact = np.float32((step if activation.gated else 1.0) / written)
    reach = max(abs(gate.low), abs(gate.high)) * (np.abs(t).max() if gate.gated else 1.0)
    if not np.isfinite(exact) or reach * abs(float(exact)) + abs(zero) + 1 >= _MOST:
        return None
    up = down = exact
    for _ in range(_NUDGES):
        for factor in (up, down):
            found = replace(gate, factor=float(factor))
            if np.array_equal(found.results(t), table):
                return found
        up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(-np.inf))
    return None
