"""How far from the reference a result may be, as data."""

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed error of one precision.

    Attributes:
        of_range: allowed absolute error as a fraction of the output's range.
        times_spread: allowed error in multiples of onnxruntime's own spread between its
            optimisation levels on this input, if that is larger.
        reason: why these numbers.
        steps: allowed error in steps of a quantized output, if that is larger.
        pooled: whether the largest spread of all inputs counts for each.
        most: the largest error that a spread can allow; where it would allow more, the output is
            ill-conditioned, and held to float64. None where nothing is compared in float64.
        most_in_doubt: the largest error that may be allowed there, for the rounding of correct
            arithmetic; what this would make larger is not judged.
        times_noise: allowed error there in multiples of what fp32's rounding does; 0 where that
            is not asked.
    """

    of_range: float
    times_spread: float
    reason: str
    steps: float = 0.0
    pooled: bool = False
    most: float | None = None
    most_in_doubt: float = 0.0
    times_noise: float = 0.0

    def allowed(self, spread: float, step: float | None = None, rounding: float = 0.0) -> float:
        """Return the limit for an input on which onnxruntime itself spreads by `spread`.

        A spread that is not finite excuses nothing. `step` is one step of a quantized output, as a
        fraction of the output's range; `rounding` is what the model's own types leave.
        """
        least = max(self.of_range, rounding, self.steps * step if step is not None else 0.0)
        return max(least, self.of_spread(spread, rounding))

    def of_spread(self, spread: float, rounding: float = 0.0) -> float:
        """Return what a spread allows by itself."""
        allowed = self.times_spread * spread if isfinite(spread) else 0.0
        if self.most is None:
            return allowed
        return min(allowed, max(self.most, _TIMES_ROUNDING * rounding))

    def doubts(self, spread: float, rounding: float = 0.0) -> bool:
        """Say whether onnxruntime spreads by so much that its output is no reference."""
        if self.most is None or not isfinite(spread):
            return False
        return self.times_spread * spread > max(self.most, rounding)


# What onnxruntime may spread by in a model that computes in fp16, in multiples of what is allowed
# without any spread: there float64 says nothing.
_TIMES_ROUNDING = 2.0

# Of an NPU, in steps: TOSA's integers against those of the QDQ model in onnxruntime.
LSB = 3

TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        of_range=1e-5,
        times_spread=4.0,
        reason=(
            "rounding alone moves a randomly weighted Large by 1.5e-6 to 1e-5 of the range "
            "between onnxruntime's optimisation levels and a float64 run. A weight that is 1 % "
            "off moves it by 2e-5 to 8e-3: a spread allows 1e-4 at most, fp32's rounding 1e-3"
        ),
        steps=2.0,  # where a quantized model is computed in fp32: a tie goes to either integer
        most=1e-4,
        most_in_doubt=1e-3,
        times_noise=4.0,
    ),
    "fp16": Tolerance(
        of_range=2e-2,
        times_spread=4.0,
        reason=(
            "fp16 holds 11 bits: rounding nothing but weights and stored values moves seeded "
            "Small and Large by 1e-3 to 4e-3 of the range; with sums of up to 96 products in fp16 "
            "they come to 3e-3 to 1e-2"
        ),
        most=2e-2,
        most_in_doubt=2e-2,
    ),
    "bf16": Tolerance(
        of_range=5e-2,
        times_spread=4.0,
        reason=(
            "bfloat16 holds 8 bits: rounding the factors of pointwise products to them moves "
            "seeded Small and Large by 5e-3 to 1.5e-2 of the range"
        ),
        most=5e-2,
        most_in_doubt=5e-2,
    ),
    "int8": Tolerance(
        of_range=1e-5,
        times_spread=2.0,
        reason=(
            "integers are computed exactly, but where onnxruntime's fp32 lies within 1e-6 of the "
            "middle of two steps it rounds to the other one: about one value in a million. In "
            "seeded networks one such value moves the output by up to 10 steps of 87 to 255, and "
            "onnxruntime's own optimisation levels are 0 to 7 steps apart on the same inputs"
        ),
        steps=2.0,
        pooled=True,
    ),
    "npu": Tolerance(
        of_range=1e-5,
        times_spread=2.0,
        reason=(
            "as int8, of TOSA, whose rescaling rounds once more. One integer that fp32 rounds the "
            "other way near a tie becomes many further down. How many is what onnxruntime's own "
            "ways of computing a QDQ graph show, and what becomes of a few integers of the input "
            "that are a step off; the latter, because those ways may happen to agree"
        ),
        steps=float(LSB),
        pooled=True,
    ),
    "bits": Tolerance(
        of_range=1e-9,
        times_spread=0.0,
        reason="a command stream computes TOSA's integers; less than a step of any is none",
    ),
}

EXACT = Tolerance(0.0, 0.0, "integers and booleans do not round")
ANY = Tolerance(of_range=1.0, times_spread=0.0, reason="int8 is judged by its cosine")

# For one rewrite by itself, on inputs of every kind in proof_inputs.py, by the type of the output.
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


@dataclass(frozen=True)
class KernelTolerance:
    """How far a kernel by itself may be from onnxruntime, on onnxruntime's tensors.

    Attributes:
        of_range: allowed absolute error of an fp32 tensor as a fraction of the tensor's range.
        of_range_by_tvm: the limit of `of_range` for one of TVM's operators.
        of_range_in_half: the limit of `of_range` for a kernel that reads or writes fp16.
        of_range_in_bfloat: the limit of `of_range` for a kernel that multiplies bfloat16.
        of_step: largest distance from the middle of two steps of an int8 tensor, in steps, at
            which the kernel may round to the other step.
        reason: why these numbers.
    """

    of_range: float
    of_range_by_tvm: float
    of_range_in_half: float
    of_range_in_bfloat: float
    of_step: float
    reason: str


KERNEL_TOLERANCE = KernelTolerance(
    of_range=1e-5,
    of_range_by_tvm=3e-5,
    of_range_in_half=1e-2,
    of_range_in_bfloat=1.5e-2,
    of_step=0.01,
    reason=(
        "exp(x) is off by |x| last bits of fp32, as x itself is rounded: a softmax of PP-OCR's "
        "reader v3 by 1.1e-5 of its range; onnxruntime adds up to a thousand products in fp32, an "
        "error of 1e-4 steps; a bias that "
        "comes in fp32 is rounded to half a step of the int32 sums, of which a hundred or more "
        "make a step of the output. Of 2 million values of a seeded Small 1 to 6 differ; kernels "
        "of floats err by 1.6e-6 of the range at most in a seeded Large, in fp16 by 2.7e-3 in a "
        "narrow Small, with products in bfloat16 by 4.0e-3 in a Small"
    ),
)


# The least cosine of a quantized model to fp32 over inputs in the usual range: it shows that it is
# still that network. How good it is, is a matter of calibration.
LEAST_COSINE = 0.9

# The largest error of what stays on the CPU behind an NPU, as a fraction of the range: the same
# operators on the same integers, without any optimisation, give the same bits but for libm's.
HOST_ERROR = 1e-6

# The largest error of a candidate of tuning beside the default, by type, as a fraction of the
# largest value, or of 1: sums of the same numbers in another order, as in the kernels' tests. Sums
# of integers do not depend on their order.
CANDIDATE_ERRORS = {"float32": 1e-5, "float16": 5e-3, "int8": 0.0}
