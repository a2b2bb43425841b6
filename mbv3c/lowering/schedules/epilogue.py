"""What a kernel does to a value before it stores it."""

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules.emit import Expr, splat


@dataclass(frozen=True)
class Activation:
    """y = clip(scale·x + shift, low, high), times x where `gated`.

    ReLU, ReLU6, Clip, HardSigmoid and HardSwish are all of this form, and none needs a division.

    Attributes:
        scale: factor of x; 1 for clips.
        shift: summand after the factor.
        low, high: bounds; None for no bound.
        gated: whether the result is multiplied by x (HardSwish).
    """

    low: float | None = None
    high: float | None = None
    scale: float = 1.0
    shift: float = 0.0
    gated: bool = False

    def apply(self, x: Expr, lanes: int, dtype: str) -> Expr:
        """Return the activation of a vector."""
        y = x
        if self.scale != 1.0:
            y = y * splat(self.scale, lanes, dtype)
        if self.shift != 0.0:
            y = y + splat(self.shift, lanes, dtype)
        if self.high is not None:
            y = T.min(y, splat(self.high, lanes, dtype))
        if self.low is not None:
            y = T.max(y, splat(self.low, lanes, dtype))
        return x * y if self.gated else y


LINEAR = Activation()
RELU = Activation(low=0.0)
HARD_SIGMOID = Activation(0.0, 1.0, scale=1 / 6, shift=0.5)
HARD_SWISH = Activation(0.0, 1.0, scale=1 / 6, shift=0.5, gated=True)
