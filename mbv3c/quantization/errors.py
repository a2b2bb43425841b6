"""How far quantized values are from those of the fp32 model."""

from dataclasses import dataclass
from math import inf, log10, sqrt

import numpy as np
from numpy.typing import NDArray


@dataclass
class Distance:
    """Sums over all comparisons so far.

    `snr_db` is the signal-to-noise ratio in dB: the squares of the wanted values over those of
    the differences, infinite without differences. `cosine` is the cosine similarity of all values
    as one vector.
    """

    _wanted: float = 0.0
    _got: float = 0.0
    _product: float = 0.0
    _noise: float = 0.0

    def add(self, wanted: NDArray[np.float32], got: NDArray[np.float32]) -> None:
        """Compare two arrays of one shape."""
        x, y = wanted.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        self._wanted += _dot(x, x)
        self._got += _dot(y, y)
        self._product += _dot(x, y)
        self._noise += _dot(x - y, x - y)

    @property
    def snr_db(self) -> float:
        if self._noise == 0.0:
            return inf
        return 10 * log10(self._wanted / self._noise) if self._wanted > 0 else -inf

    @property
    def cosine(self) -> float:
        norms = sqrt(self._wanted * self._got)
        if norms == 0.0:
            return float(self._wanted == self._got)
        return min(self._product / norms, 1.0)


def _dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    # BLAS would start threads for each of thousands of products, which on a busy machine wait.
    return float(np.einsum("i,i", x, y))
