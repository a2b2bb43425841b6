"""A device to compile for, as far as everything but its backend needs to know."""

from dataclasses import dataclass
from typing import ClassVar, Self


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
