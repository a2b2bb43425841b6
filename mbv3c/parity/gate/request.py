"""What a user asks of `verify` beside the verdict."""

from dataclasses import dataclass, field
from pathlib import Path

from mbv3c.parity.gate.baseline import Allowed
from mbv3c.parity.gate.limits import Limit


@dataclass(frozen=True)
class GateRequest:
    """What the user asked for beside the verdict; paths are None where nothing was said.

    Attributes:
        limits: on the metrics.
        save_outputs: where to write the outputs.
        check: a file of such outputs, to be judged instead of a bundle.
        report: where to write a report.
        baseline: an earlier report to compare with.
        allowed: how much worse than that it may be.
        latency: whether to measure the speed.
        junit: where to write the checks.
        plot: where to write pictures of the errors.
        html: where to write a page with all of it.
    """

    limits: tuple[Limit, ...] = ()
    save_outputs: Path | None = None
    check: Path | None = None
    report: Path | None = None
    baseline: Path | None = None
    allowed: Allowed = field(default_factory=Allowed)
    latency: bool = False
    junit: Path | None = None
    plot: Path | None = None
    html: Path | None = None
