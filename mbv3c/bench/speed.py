"""The speed of a bundle as one figure, for reports and baselines."""

from typing import Any

from mbv3c.bundle import Bundle
from mbv3c.parity.gate.baseline import CYCLES, INSTRUCTIONS, TIME
from mbv3c.parity.gate.gate import Progress


def speed_of(bundle: Bundle, progress: Progress) -> dict[str, Any]:
    """Return how fast a bundle is, in what can be told here, as `kind` and `value`.

    Time is a ratio to that of onnxruntime in the same run; an emulated library has its executed
    instructions, and an NPU the cycles that vela estimated.

    Raises:
        ToolError: nothing here runs it.
    """
    if "npu" in bundle.manifest:
        return {"kind": CYCLES, "value": bundle.manifest["npu"]["cost"]["cycles"]}
    from mbv3c.bench import measure as bench

    measured = bench.measure(bundle.path, bench.BenchRequest(), progress)
    if isinstance(measured, bench.Instructions):
        return {"kind": INSTRUCTIONS, "value": measured.executed, "cpu": measured.cpu}
    return {
        "kind": TIME,
        "value": measured.ratio.median,
        "quartiles": list(measured.ratio.quartiles),
        "median_ms": measured.ours.median_ms,
        "against": measured.against,
        "against_version": measured.versions[_package(measured.against)],
        "against_median_ms": measured.theirs.median_ms,
        "threads": measured.threads,
        "on": measured.versions.get("on"),
        "undisturbed": measured.undisturbed,
        "cpu": measured.cpu,
    }


def _package(against: str) -> str:
    from mbv3c.execution.timing.contenders import CONTENDERS

    return CONTENDERS[against].package
