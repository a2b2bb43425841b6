"""How the integers of a tensor stand for real values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quantization:
    """The int8 of a tensor: value = (integer - zero_point) · scale.

    Integers of uint8 are counted from -128 on: they stand for the same values.
    """

    scale: float
    zero_point: int

    def quantize(self, x: NDArray[Any] | np.float32) -> NDArray[np.int8]:
        """Return the integers of fp32 values, as onnxruntime rounds them: halves to even."""
        q = np.rint(x.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        integers: NDArray[np.int8] = np.clip(q, -128, 127).astype(np.int8)
        return integers

    def dequantize(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """Return the fp32 values of integers."""
        shifted = q.astype(np.float32) - np.float32(self.zero_point)
        values: NDArray[np.float32] = shifted * np.float32(self.scale)
        return values
