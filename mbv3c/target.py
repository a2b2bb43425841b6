"""A device to compile for, as far as everything but its backend needs to know."""

from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True)
class Limits:
    """What one core of a device can do at most, and its memory: the roofs over its kernels.

    Attributes:
        madds_per_cycle: multiply-adds of a core in a cycle, in one precision.
        l1_per_cycle: bytes that a core loads from its level-1 cache in a cycle; 0 if unknown.
        madds_per_instruction: multiply-adds of its best instruction; 0 if that says nothing.
        bytes_per_instruction: bytes that its best instruction loads; 0 if that says nothing.
        clock_mhz: clock of the board in `board`; 0 if unknown.
        memory_gb: bytes that the memory of that board gives in a second, in GB; 0 if unknown.
        board: the board that has this clock and this memory.
        source: where these figures are from.
    """

    madds_per_cycle: float
    l1_per_cycle: float = 0.0
    madds_per_instruction: float = 0.0
    bytes_per_instruction: float = 0.0
    clock_mhz: float = 0.0
    memory_gb: float = 0.0
    board: str = ""
    source: str = ""


@dataclass(frozen=True)
class Target:
    """One device of a family; backends add the fields that they need in subclasses.

    Attributes:
        family: what the user writes before the colon.
        device: what the user writes after the colon.
        computes_fp32: whether it computes layers in fp32 beside those in integers.
    """

    family: str
    device: str
    computes_fp32: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"{self.family}:{self.device}"

    def on_cores(self, cores: int) -> Self:
        """Return the target for a board with so many cores; one without a choice is what it is."""
        return self

    def limits(self, precision: str) -> Limits | None:
        """Return what it can do at most in a precision; None where that is not in the tables."""
        return None
