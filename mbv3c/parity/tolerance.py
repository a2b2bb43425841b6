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
    "fp16": Tolerance(
        of_range=2e-2,
        times_spread=4.0,
        reason=(
            "fp16 holds 11 bits: rounding nothing but weights and stored values moves seeded "
            "Small and Large by 1e-3 to 4e-3 of the range; with sums of up to 96 products in fp16 "
            "they come to 3e-3 to 1e-2"
        ),
    ),
}

# Of one rewrite by itself, on inputs of every kind in proof_inputs.py, by the type of its output.
PROOF_TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(
        of_range=1e-5,
        times_spread=4.0,
        reason=(
            "the largest that rounding does to a rewrite of Small or Large is 3.3e-6 (fold_se on "
            "inputs of standard deviation 100, where sums of the gate cancel), to a fused "
            "activation 1e-7; 2.9 for the 3 in hard-swish makes 1.7e-2"
        ),
    ),
    "float16": Tolerance(
        of_range=2e-3,
        times_spread=4.0,
        reason="fp16 holds 11 bits: four roundings of 4.9e-4, one per primitive of hard-swish",
    ),
    "float64": Tolerance(
        of_range=1e-12,
        times_spread=4.0,
        reason="some thousands of roundings of 1.1e-16; constants stay as exact as they came",
    ),
}
