"""How to quantize, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from onnx import TensorProto

from mbv3c.errors import UsageError
from mbv3c.nearest import among

METHODS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class ActivationType:
    """An integer type of activations.

    Attributes:
        tensor_type: value of ONNX's `TensorProto.DataType`.
        low: the smallest integer, which is also the zero point of a range that begins at 0.
        high: the largest integer.
        opset: first ONNX operator set whose QuantizeLinear takes this type.
    """

    tensor_type: int
    low: int
    high: int
    opset: int


ACTIVATION_TYPES: dict[str, ActivationType] = {
    "int8": ActivationType(TensorProto.INT8, -128, 127, opset=13),
    "int16": ActivationType(TensorProto.INT16, -(1 << 15), (1 << 15) - 1, opset=21),
}


@dataclass(frozen=True)
class KeepFloat:
    """Which layers stay fp32: a number of the most sensitive ones, or as few as a budget needs.

    Attributes:
        most_sensitive: number of layers.
        budget_db: least signal-to-noise ratio of the worst output, in dB; None for no budget.
        elsewhere: names of more layers that stay fp32, since another device computes them.
        without_kernel: names of more layers that stay fp32, since the device has no integer
            kernel for them.
    """

    most_sensitive: int = 0
    budget_db: float | None = None
    elsewhere: frozenset[str] = frozenset()
    without_kernel: frozenset[str] = frozenset()

    @property
    def in_any_case(self) -> frozenset[str]:
        """The layers that stay fp32 whatever they cost."""
        return self.elsewhere | self.without_kernel


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize. Weights are always int8, symmetric, per channel.

    Attributes:
        activations: type of the activations, a key of `ACTIVATION_TYPES`; per tensor, asymmetric.
        method: how the range of a tensor follows from its values, one of `METHODS`.
        percentile: share of a tensor's values, in percent, that method `percentile` holds in the
            range; half of the rest is cut off at either end.
        known_ranges: whether to narrow ranges by what is known without calibration.
        keep_float: the layers that stay fp32.

    Raises:
        UsageError: a value makes no sense.
    """

    activations: str = "int8"
    method: str = "minmax"
    percentile: float = 99.99
    known_ranges: bool = True
    keep_float: KeepFloat = KeepFloat()

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATION_TYPES:
            near = among(self.activations, ACTIVATION_TYPES)
            raise UsageError(f"unknown activations {self.activations!r}{near}")
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}{among(self.method, METHODS)}")
        if not 50 < self.percentile <= 100:
            raise UsageError(
                f"percentile must be above 50 and at most 100, got {self.percentile:g}"
            )

    @property
    def ranges_by(self) -> str:
        """How ranges follow from values, in words."""
        share = f" {self.percentile:g}" if self.method == "percentile" else ""
        return f"{self.method}{share}"

    @property
    def activation_type(self) -> ActivationType:
        return ACTIVATION_TYPES[self.activations]


def from_given(given: Mapping[str, Any]) -> QuantizeOptions:
    """Make options of a user's values; None stands for the default.

    Raises:
        UsageError: a value makes no sense, or belongs to another method.
    """
    if given.get("percentile") is not None and given.get("method") != "percentile":
        raise UsageError("--percentile belongs to --method percentile; give both")
    return QuantizeOptions(**{key: value for key, value in given.items() if value is not None})


def parse_keep_float(text: str) -> KeepFloat:
    """Read `3` (the three most sensitive layers) or `auto:40dB` (as few as 40 dB need).

    Raises:
        UsageError: `text` is neither.
    """
    kind, _, budget = text.partition(":")
    try:
        if kind == "auto":
            decibels = float(budget.strip().lower().removesuffix("db"))
            if isfinite(decibels):
                return KeepFloat(budget_db=decibels)
        elif int(text) >= 0:
            return KeepFloat(int(text))
    except ValueError:
        pass
    raise UsageError(
        f"--keep-float {text!r} is neither a number of layers, such as 3, nor a budget, such as "
        "auto:40dB (signal-to-noise ratio of the output)"
    )
