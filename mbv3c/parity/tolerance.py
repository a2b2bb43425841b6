"""How far from the reference a result may be, as data."""

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed error of one precision.

    Attributes:
        of_range: allowed absolute error as a fraction of the output's range.
        times_spread: the error may instead be this many times onnxruntime's own spread between
            its optimisation levels on the same input, where that is larger.
        reason: why these numbers.
    """

    of_range: float
    times_spread: float
    reason: str

    def allowed(self, spread: float) -> float:
        """Return the limit for an input on which onnxruntime itself spreads by `spread`.

        A spread that is not finite excuses nothing.
        """
        return (
            max(self.of_range, self.times_spread * spread) if isfinite(spread) else self.of_range
        )


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        of_range=1e-5,
        times_spread=4.0,
        reason=(
            "rounding alone moves a randomly weighted Large by 1.5e-6 to 1e-5 of the range "
            "between onnxruntime's optimisation levels and a float64 run"
        ),
    ),
}
