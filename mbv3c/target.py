"""A device to compile for, as far as everything but its backend needs to know."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One device of a family; backends add the fields that they need in subclasses.

    Attributes:
        family: what the user writes before the colon.
        device: what the user writes after the colon.
    """

    family: str
    device: str

    @property
    def name(self) -> str:
        return f"{self.family}:{self.device}"
