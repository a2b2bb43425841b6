"""Verdicts as a list of single checks, each with what was seen and what was allowed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mbv3c.errors import EXIT_DONE, EXIT_PARITY
from mbv3c.parity.compare import Parity
from mbv3c.parity.tolerance import LEAST_COSINE
from mbv3c.targets.ethos_u.verdict import NpuParity


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        suite: what it belongs to: `parity`, `kernels`, `limits` or `baseline`.
        name: what was checked; no other check of the suite has that name.
        passed: the verdict.
        said: what was seen, and what is allowed.
        exit_code: of the command, if it is missed.
        seconds: how long it took to find out.
        skipped: whether it could not be checked; then it counts as passed.
    """

    suite: str
    name: str
    passed: bool
    said: str
    exit_code: int = EXIT_PARITY
    seconds: float = 0.0
    skipped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "suite": self.suite,
            "name": self.name,
            "passed": None if self.skipped else self.passed,
            "said": self.said,
        }


def exit_code(checks: Sequence[Check]) -> int:
    """Return the exit code of a command that made these checks: that of the gravest miss.

    Wrong results (3) are graver than slower ones (4), and those than larger ones (5).
    """
    return min((one.exit_code for one in checks if not one.passed), default=EXIT_DONE)


def checks_of(parity: Parity | NpuParity, seconds: float = 0.0) -> list[Check]:
    """Return what the standing rules have checked, and first that it ran, in so many seconds."""
    ran = Check("parity", f"runs on {parity.ran_on}", True, "it ran", seconds=seconds)
    if isinstance(parity, NpuParity):
        return [ran, *_npu(parity)]
    return [ran, *_outputs(parity), *_kernels(parity)]


def _outputs(parity: Parity) -> Iterator[Check]:
    for index, outputs in enumerate(parity.pairs):
        for pair in outputs:
            judged = pair.judged
            assert judged is not None
            top1 = judged.top1_agreement
            agreement = "" if top1 is None else f", top-1 agreement {top1:.0%}"
            yield Check(
                "parity",
                f"{pair.reference.name}, input {index}",
                judged.passed,
                f"max error {judged.max_error_of_range:.1e} of range (allowed "
                f"{judged.allowed:.1e}){agreement}",
            )


def _kernels(parity: Parity) -> Iterator[Check]:
    kernels = parity.kernels.kernels if parity.kernels is not None else ()
    for index, one in enumerate(kernels):
        yield Check("kernels", f"{index} {one.kernel} makes {one.tensor}", one.passed, one.said)


def _npu(parity: NpuParity) -> Iterator[Check]:
    cosine = min(one.cosine for one in parity.inputs)
    worst = max(parity.inputs, key=lambda one: one.lsb - one.allowed_lsb)
    alone, host, stream = parity.alone, parity.host, parity.stream_equal
    yield Check(
        "parity",
        "QDQ against fp32",
        cosine >= LEAST_COSINE,
        f"cosine {cosine:.5f} (at least {LEAST_COSINE})",
    )
    yield Check(
        "parity",
        "TOSA against QDQ",
        worst.lsb <= worst.allowed_lsb,
        f"{worst.lsb} LSB (allowed {worst.allowed_lsb:.0f})",
    )
    yield Check(
        "parity",
        f"{alone.count} operators alone",
        alone.passed,
        f"{alone.lsb} LSB in {alone.worst} (allowed {alone.allowed_lsb})",
    )
    yield Check("parity", "TOSA file", parity.same_tosa, "byte by byte what QDQ lowers to")
    if host is not None:
        said = f"error {host.max_error_of_range:.1e} of range, cosine {host.cosine:.5f}"
        yield Check("parity", "part on the CPU", not parity.missed_on_host, said)
    said = parity.stream_said or f"bit-equal on {parity.stream_inputs} inputs"
    yield Check("parity", "command stream", stream is not False, said, skipped=stream is None)
