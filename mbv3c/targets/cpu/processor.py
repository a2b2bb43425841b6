"""What a kernel must know about a processor."""

from dataclasses import dataclass

import numpy as np

# How a processor multiplies integers: by NEON's widening products (`smlal`), by its dot products
# of four int8 (`sdot`, which Armv8.2 has as an option), by those of AVX-512 VNNI (`vpdpbusd`), or
# as the compiler makes it of plain products.
INTEGERS = ("portable", "neon", "dotprod", "vnni")


@dataclass(frozen=True)
class Processor:
    """The part of a processor's description that decides how a kernel is best written.

    Attributes:
        vector_bytes: width of a vector register.
        registers: number of vector registers.
        lane_operands: whether a multiply-add can take one lane of a vector as the operand of all
            lanes (NEON `fmla v, v, v.s[i]`); otherwise a scalar is broadcast from memory.
        partial_cost: cost of an operation on half a vector or less, relative to a full vector.
        l1_bytes: level-1 data cache of a core.
        l2_bytes: level-2 cache that a core may fill.
        fma_chains: multiply-adds that must be under way to hide their latency.
        cores: number of cores that an inference may use.
        fp16: whether the processor multiplies and adds half precision.
        integers: way to multiply int8, one of `INTEGERS`.
        parallel_madds: multiply-adds below which waking other cores costs more than it saves.
    """

    vector_bytes: int
    registers: int
    lane_operands: bool
    partial_cost: float
    l1_bytes: int
    l2_bytes: int
    fma_chains: int
    cores: int
    fp16: bool = False
    integers: str = "portable"
    parallel_madds: int = 200_000

    def lanes(self, dtype: str) -> int:
        """Return how many values of `dtype` a vector holds."""
        return self.vector_bytes // np.dtype(dtype).itemsize

    def worthwhile(self, madds: int) -> bool:
        """Say whether a kernel of this size should use several cores."""
        return self.cores > 1 and madds >= self.parallel_madds
