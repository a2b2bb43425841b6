"""What the kernels of a library have shown by themselves, as data."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True)
class KernelParity:
    """What one call of a kernel has shown by itself.

    Attributes:
        kernel: its name in the library.
        nodes: the ONNX nodes that it covers.
        tensor: what it makes.
        values: how many of them.
        differing: how many are not onnxruntime's.
        wrong: how many of those onnxruntime did not round from near the middle of two steps.
        steps: the largest difference in steps of the quantized tensor; None of an fp32 one.
        allowed_steps: the largest allowed one.
        max_error_of_range: the largest difference over the tensor's range.
        passed: the verdict.
    """

    kernel: str
    nodes: tuple[str, ...]
    tensor: str
    values: int
    differing: int
    wrong: int
    steps: int | None
    allowed_steps: int | None
    max_error_of_range: float
    passed: bool

    @property
    def of_allowed(self) -> tuple[bool, float, float]:
        """A key by which the worst kernel is the largest."""
        steps = (self.steps or 0) / max(1, self.allowed_steps or 1)
        return not self.passed, steps, self.wrong / self.values

    @property
    def said(self) -> str:
        """Name the kernel and say what was seen."""
        what = ", ".join(self.nodes) or f"makes {self.tensor}"
        if self.steps is None:
            return f"{self.kernel} ({what}): max error {self.max_error_of_range:.1e} of range"
        return (
            f"{self.kernel} ({what}): {self.differing} of {self.values} values differ, "
            f"{self.wrong} of them without a tie, by up to {self.steps} steps (allowed "
            f"{self.allowed_steps})"
        )


@dataclass(frozen=True)
class KernelsAlone:
    """What all kernels have shown by themselves, in the order in which they run."""

    kernels: tuple[KernelParity, ...]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.kernels)

    @property
    def missed(self) -> list[str]:
        """Say which missed, and by how much."""
        return [one.said for one in self.kernels if not one.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        worst = max(self.kernels, key=lambda one: one.of_allowed, default=None)
        rounded = [one for one in self.kernels if one.steps is not None]
        return {
            "passed": self.passed,
            "missed": self.missed,
            "count": len(self.kernels),
            "values": sum(one.values for one in rounded),
            "differing": sum(one.differing for one in rounded),
            "worst": worst and worst.said,
            "steps": max((one.steps or 0 for one in self.kernels), default=0),
            "kernels": [
                {**asdict(one), "max_error_of_range": _finite(one.max_error_of_range)}
                for one in self.kernels
            ],
        }


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None
