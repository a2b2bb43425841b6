"""The shapes of kernels: selection asks for a kernel by its shape, and schedules write it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3c.lowering.schedules.epilogue import Activation
from mbv3c.lowering.schedules.windows import Axis, products


@dataclass(frozen=True)
class Convolution:
    """The shape of a dense convolution.

    Attributes:
        channels_first: whether the input is NCHW.
        source: element type of the input; the kernel converts it to `dtype` as it reads.
    """

    batch: int
    inputs: int
    outputs: int
    vertical: Axis
    horizontal: Axis
    activation: Activation
    channels_first: bool
    dtype: str = "float32"
    source: str = "float32"

    @property
    def madds(self) -> int:
        return self.batch * self.outputs * self.inputs * products(self.vertical, self.horizontal)


@dataclass(frozen=True)
class Depthwise:
    """The shape of a depthwise convolution."""

    batch: int
    channels: int
    vertical: Axis
    horizontal: Axis
    activation: Activation
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return self.batch * self.channels * products(self.vertical, self.horizontal)


def pack_depthwise(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [C, 1, R, S] as [R, S, C]."""
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))


@dataclass(frozen=True)
class Elementwise:
    """y = activation(a ∘ b), or activation(a).

    Attributes:
        operator: "add", "multiply", or "" for one operand.
        per_channel: whether b is [B, C] beside a's [B, P, C], as the gates of SE are.
        result: element type of y; empty for the type of a and b.
    """

    batch: int
    places: int
    channels: int
    operator: str
    per_channel: bool
    activation: Activation
    dtype: str = "float32"
    result: str = ""

    @property
    def madds(self) -> int:
        return 0


@dataclass(frozen=True)
class Transpose:
    """x [B, rows, columns] to y [B, columns, rows]: NCHW to NHWC, and back.

    Attributes:
        result: element type of y; empty for the type of x.
    """

    batch: int
    rows: int
    columns: int
    dtype: str = "float32"
    result: str = ""

    @property
    def madds(self) -> int:
        return 0


@dataclass(frozen=True)
class Pointwise:
    """The shape of a pointwise convolution or of a fully connected layer."""

    rows: int
    inputs: int
    outputs: int
    activation: Activation
    residual: bool = False
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class GlobalPool:
    """The shape of a global average pool."""

    batch: int
    places: int
    channels: int
    dtype: str = "float32"

    @property
    def madds(self) -> int:
        return 0
