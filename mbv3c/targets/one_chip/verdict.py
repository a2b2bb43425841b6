"""The verdict on a C library of NPU and CPU: that on its streams, and what the whole has shown."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mbv3c.parity.metrics import finite
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.parity.verdict import Check
from mbv3c.targets.ethos_u import verdict
from mbv3c.targets.ethos_u.verdict import NpuParity

_LSB = 1
_SHARE = 1e-3  # of integers; a float of TVM's and of onnxruntime's may be on both sides of a half


@dataclass(frozen=True)
class FirmwareParity:
    """What the C library has shown on an emulated board, against onnxruntime part by part.

    Attributes:
        ran_on: what it ran on; empty if it did not run.
        inputs: the number of inputs that it ran on.
        calls: the number of calls of the NPU in one run.
        integers: the number of integers that the CPU handed to the NPU.
        differing: those of them that are not onnxruntime's on the integers of the parts before.
        lsb: the largest of these differences.
        max_error_of_range: the largest error of the outputs, on the integers of the NPU.
        other_constants: what of streams and weights in the archive is not what it should be.
        stack_bytes: the stack of the whole program on the board.
        not_run: why it did not run; empty if it did.
    """

    ran_on: str = ""
    inputs: int = 0
    calls: int = 0
    integers: int = 0
    differing: int = 0
    lsb: int = 0
    max_error_of_range: float = 0.0
    other_constants: tuple[str, ...] = ()
    stack_bytes: int = 0
    not_run: str = ""

    @property
    def missed(self) -> list[str]:
        """Say what is wrong with it."""
        missed = [f"the C library has other constants: {name}" for name in self.other_constants]
        if self.not_run:
            missed.append(f"the C library was not run: {self.not_run}")
        if self.lsb > _LSB or self.differing > _SHARE * self.integers:
            missed.append(
                f"the C library hands {self.differing} of {self.integers} integers to the NPU "
                f"that are up to {self.lsb} from onnxruntime's (allowed {_LSB} in one of "
                f"{round(1 / _SHARE)})"
            )
        most = TOLERANCES["fp32"].of_range
        if not self.max_error_of_range <= most:
            missed.append(
                f"the outputs of the C library are {self.max_error_of_range:.1e} of the range "
                f"from onnxruntime's on the integers of the NPU (allowed {most:.0e})"
            )
        return missed

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; null for a number that is not finite."""
        document: dict[str, Any] = finite(asdict(self))
        return {**document, "passed": not self.missed}


@dataclass(frozen=True)
class OneChipParity(NpuParity):
    """The verdict on a bundle with a C library of NPU and CPU.

    Attributes:
        firmware: what the library has shown.
    """

    firmware: FirmwareParity = FirmwareParity(not_run="nothing was run")
    host_files: ClassVar[str] = verdict.PARTS

    @property
    def missed(self) -> list[str]:
        return [*super().missed, *self.firmware.missed]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "c_library": self.firmware.to_json()}

    def checks(self) -> list[Check]:
        found, text = self.firmware, "; ".join(self.firmware.missed)
        return [
            *super().checks(),
            Check("parity", "C library", not found.missed, text or _shown(found.to_json())),
        ]

    def lines(self) -> list[str]:
        return [*super().lines(), *sentences(self.to_json())]

    @property
    def ran_on(self) -> str:
        stands = "interpreter of the command stream"
        if self.stream_equal is None:
            stands = "TOSA reference model (not the command stream)"
        return f"{self.firmware.ran_on or 'no board'}, {stands} in the place of the NPU"


def sentences(parity: dict[str, Any]) -> Iterator[str]:
    """Say in lines what the library has shown, as the JSON form of a verdict has it."""
    found = parity["c_library"]
    if found["not_run"]:
        yield f"  C library: NOT RUN: {found['not_run']}"
    else:
        yield f"  C library, {_shown(found)}"
    for name in found["other_constants"]:
        yield f"  C library: OTHER CONSTANTS: {name}"


def _shown(found: dict[str, Any]) -> str:
    error = found["max_error_of_range"]
    return (
        f"{found['inputs']} inputs on the {found['ran_on']}: {found['differing']} of "
        f"{found['integers']:,} integers to the NPU differ from onnxruntime's (at most "
        f"{found['lsb']} LSB), outputs "
        f"{'not finite' if error is None else format(error, '.1e')} of the range; "
        f"{found['stack_bytes']:,} bytes of stack"
    )
