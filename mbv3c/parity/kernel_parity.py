"""Parity of the kernels of a library, each by itself, as data."""

from dataclasses import asdict, dataclass
from typing import Any

from mbv3c.parity.metrics import finite


@dataclass(frozen=True)
class KernelParity:
    """One tensor that a call of a kernel writes, against onnxruntime's.

    Attributes:
        kernel: name of the kernel in the library.
        nodes: names of the ONNX nodes that the kernel covers.
        tensor: name of the tensor.
        values: number of values of the tensor.
        differing: number of values that are not onnxruntime's.
        wrong: number of differing values that onnxruntime did not round from near a tie.
        steps: largest difference in steps of a quantized tensor; None for fp32.
        allowed_steps: largest allowed difference in steps; None for fp32.
        max_error_of_range: largest difference over the tensor's range.
        passed: whether the kernel passed.
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
        """A sort key by which the worst kernel is the largest."""
        steps = (self.steps or 0) / max(1, self.allowed_steps or 1)
        return not self.passed, steps, self.wrong / self.values

    @property
    def said(self) -> str:
        """The kernel and its largest difference, in words."""
        what = ", ".join(self.nodes) or f"makes {self.tensor}"
        if self.steps is None:
            return f"{self.kernel} ({what}): max error {self.max_error_of_range:.1e} of range"
        return (
            f"{self.kernel} ({what}): {self.differing} of {self.values} values differ, "
            f"{self.wrong} of them without a tie, by up to {self.steps} steps (allowed "
            f"{self.allowed_steps})"
        )


@dataclass(frozen=True)
class KernelsParity:
    """Parity of all kernels, each by itself, in the order in which they run."""

    kernels: tuple[KernelParity, ...]

    @property
    def passed(self) -> bool:
        return all(kernel.passed for kernel in self.kernels)

    @property
    def missed(self) -> list[str]:
        """The kernels that did not pass, and by how much, in words."""
        return [kernel.said for kernel in self.kernels if not kernel.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        worst = max(self.kernels, key=lambda kernel: kernel.of_allowed, default=None)
        rounded = [kernel for kernel in self.kernels if kernel.steps is not None]
        return {
            "passed": self.passed,
            "missed": self.missed,
            "count": len(self.kernels),
            "values": sum(kernel.values for kernel in rounded),
            "differing": sum(kernel.differing for kernel in rounded),
            "worst": worst and worst.said,
            "steps": max((kernel.steps or 0 for kernel in self.kernels), default=0),
            "kernels": [
                {**asdict(kernel), "max_error_of_range": finite(kernel.max_error_of_range)}
                for kernel in self.kernels
            ],
        }
