"""What kernels have shown by themselves."""

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
        allowed_of_range: largest allowed difference over the tensor's range; None where steps or
            bits decide.
        drawn: whether the kernel ran on drawn tensors, and not on the network's own.
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
    allowed_of_range: float | None = None
    drawn: bool = False

    @property
    def of_allowed(self) -> tuple[bool, float, float]:
        """A sort key by which the worst kernel is the largest."""
        steps = (self.steps or 0) / max(1, self.allowed_steps or 1)
        error = self.max_error_of_range / (self.allowed_of_range or 1.0)
        return not self.passed, steps, max(error, self.wrong / max(1, self.values))

    @property
    def finding(self) -> str:
        """The kernel and its largest difference, in words."""
        what = ", ".join(self.nodes) or f"makes {self.tensor}"
        what += ", on drawn tensors" if self.drawn else ""
        if self.steps is None:
            error = f"{self.kernel} ({what}): max error {self.max_error_of_range:.1e} of range"
            allowed = self.allowed_of_range
            return error if allowed is None else f"{error} (allowed {allowed:.1e})"
        return (
            f"{self.kernel} ({what}): {self.differing} of {self.values} values differ, "
            f"{self.wrong} of them without a tie, by up to {self.steps} steps (allowed "
            f"{self.allowed_steps})"
        )


@dataclass(frozen=True)
class KernelsParity:
    """Parity of all kernels, each by itself, in the order in which they run.

    Attributes:
        kernels: what every kernel made of the network's own tensors, and then of drawn ones.
        channels: number of channels of all activations in kernels that were compared.
        alive: number of those that came out as something of their own in some run: neither 0 nor
            another bound of the activation.
        left_out: names of the kernels whose results the model has no name for: they show in what
            the next kernel makes of them.
    """

    kernels: tuple[KernelParity, ...]
    channels: int = 0
    alive: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(kernel.passed for kernel in self.kernels)

    @property
    def missed(self) -> list[str]:
        """The kernels that did not pass, and by how much, in words."""
        return [kernel.finding for kernel in self.kernels if not kernel.passed]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        worst = max(self.kernels, key=lambda kernel: kernel.of_allowed, default=None)
        rounded = [kernel for kernel in self.kernels if kernel.steps is not None]
        return {
            "passed": self.passed,
            "missed": self.missed,
            "count": sum(not kernel.drawn for kernel in self.kernels),
            "drawn": sum(kernel.drawn for kernel in self.kernels),
            "values": sum(kernel.values for kernel in rounded),
            "differing": sum(kernel.differing for kernel in rounded),
            "worst": worst and worst.finding,
            "steps": max((kernel.steps or 0 for kernel in self.kernels), default=0),
            "max_error_of_range": finite(
                max((one.max_error_of_range for one in self.kernels), default=0.0)
            ),
            "channels": self.channels,
            "channels_alive": self.alive,
            "left_out": self.left_out,
            "kernels": [finite(asdict(kernel)) for kernel in self.kernels],
        }
