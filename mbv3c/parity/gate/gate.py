"""`verify` as a gate: what it judges beside the standing rules, and what it writes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbv3c.atomic import new_file
from mbv3c.bundle import Bundle, read_bundle
from mbv3c.errors import EXIT_PARITY, Mbv3cError, UsageError
from mbv3c.parity.checks import Check, checks_of, exit_code
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.gate.baseline import (
    TIME,
    Report,
    compare_with,
    read_baseline,
    report_of,
    write_report,
)
from mbv3c.parity.gate.junit import junit_xml
from mbv3c.parity.gate.limits import MetricRow, judge, measure_all
from mbv3c.parity.gate.request import GateRequest
from mbv3c.parity.gate.saved_outputs import Saved, load_outputs, origin_of, save_outputs
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.targets.ethos_u.verdict import NpuParity

Progress = Callable[[str], None]
Verdict = Parity | NpuParity

_ATTEMPTS = 3


@dataclass(frozen=True)
class GateResult:
    """What came out.

    Attributes:
        document: the verdict in the documented JSON form.
        rows: the metrics.
        checks: everything that was checked, by the standing rules first.
        blocks: what blocks by themselves have shown, in the documented form; None if not asked.
    """

    document: dict[str, Any]
    rows: list[MetricRow]
    checks: list[Check]
    blocks: list[dict[str, Any]] | None = None

    @property
    def exit_code(self) -> int:
        return exit_code(self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; `checks` without those of the standing rules."""
        more = [one for one in self.checks if one.suite in ("limits", "baseline")]
        missed = any(one.exit_code == EXIT_PARITY for one in self.checks if not one.passed)
        return {
            **self.document,
            "passed": not missed,
            "metrics": [row.to_json() for row in self.rows],
            "checks": [one.to_json() for one in more],
            "blocks": self.blocks,
            "exit_code": self.exit_code,
        }


def verify_and_judge(
    path: Path,
    request: GateRequest,
    run: Callable[[], Verdict],
    progress: Progress,
    *,
    here: bool = True,
) -> GateResult:
    """Verify a bundle, hold it to limits and to a baseline, and write what was asked for.

    Args:
        path: the bundle.
        request: what was asked for.
        run: verifies it.
        progress: takes what is being done.
        here: whether it runs on this machine, so that its speed can be measured.

    Raises:
        UsageError: the baseline or a limit does not fit the bundle.
        Mbv3cError: it cannot be verified or measured, or a file cannot be read or written.
    """
    with _Junit(request.junit, path.name) as junit:
        bundle = read_bundle(path)
        baseline = _baseline(bundle, request, here=here)
        started = time.monotonic()
        parity = run()
        seconds = time.monotonic() - started
        rows = measure_all(parity.pairs)
        checks = [*checks_of(parity, seconds), *judge(request.limits, parity.pairs, rows)]
        junit.checks = checks
        if request.save_outputs is not None:
            save_outputs(request.save_outputs, _saved(bundle, parity))
        report = report_of(bundle, parity, rows, None)
        checks += _against(baseline, report, bundle, request, progress)
        if request.report is not None:
            write_report(request.report, report)
        shown = None
        if request.plot is not None or request.html is not None:
            from mbv3c.parity.gate.page import write_pictures
            from mbv3c.targets.library import blocks_of

            blocks = blocks_of(bundle, progress, here=here)
            write_pictures(request, _saved(bundle, parity), checks, rows, blocks)
            shown = None if isinstance(blocks, str) else blocks.to_json()
    return GateResult(parity.to_json(), rows, checks, shown)


def _baseline(bundle: Bundle, request: GateRequest, *, here: bool) -> Report | None:
    baseline = request.baseline and read_baseline(request.baseline, bundle)
    fast = isinstance(baseline, dict) and baseline["speed"] is not None
    if (request.latency or fast) and not here:
        raise UsageError(
            "speed is measured on this machine: leave out --device and --tracker, or --latency "
            "and a --baseline that has a speed"
        )
    if request.latency and isinstance(baseline, dict) and not fast:
        raise UsageError(
            f"{request.baseline} says nothing about speed; write it with --report --latency"
        )
    return baseline if isinstance(baseline, dict) else None


def check_again(path: Path, request: GateRequest) -> GateResult:
    """Judge saved outputs: by the limits, or without any by the standing rules.

    Raises:
        UsageError: there is no such file, or nothing to judge by.
        SavedFileError: the file is damaged or another one.
        Mbv3cError: a file cannot be written.
    """
    with _Junit(request.junit, path.name) as junit:
        started = time.monotonic()
        saved = load_outputs(path)
        rows = measure_all(saved.pairs)
        document: dict[str, Any] = {key: saved.origin[key] for key in ("ran_on", "exact_program")}
        if request.limits:
            checks = judge(request.limits, saved.pairs, rows)
        else:
            again = _standing(path, saved)
            checks, document = checks_of(again)[1:], again.to_json()
        if checks:
            checks[0] = replace(checks[0], seconds=time.monotonic() - started)
        junit.checks = checks
        if request.plot is not None or request.html is not None:
            from mbv3c.parity.gate.page import SAVED, write_pictures

            write_pictures(request, saved, checks, rows, SAVED)
    return GateResult({**document, "saved": dict(saved.origin)}, rows, checks)


class _Junit:
    """Writes the checks when a block ends, also where it ends by an error."""

    def __init__(self, path: Path | None, name: str) -> None:
        self._path, self._name = path, name
        self.checks: list[Check] = []

    def __enter__(self) -> "_Junit":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._path is None or not (error is None or isinstance(error, Mbv3cError)):
            return
        with new_file(self._path, force=True) as temporary:
            temporary.write_bytes(junit_xml(self._name, self.checks, error))


def _saved(bundle: Bundle, parity: Verdict) -> Saved:
    if isinstance(parity, NpuParity):
        # The outputs are those of TOSA, which the stream was only compared with.
        origin = origin_of(bundle, parity.ran_on, exact_program=False)
        return Saved(origin, None, parity.pairs)
    origin = origin_of(bundle, parity.ran_on, exact_program=parity.exact_program)
    return Saved(origin, TOLERANCES[origin["precision"]], parity.pairs)


def _standing(path: Path, saved: Saved) -> Parity:
    if saved.standing is None:
        raise UsageError(
            f"{path} is of an NPU bundle, which `verify` judges by more than its outputs; give "
            "limits to judge these by, such as --min-cosine 0.99"
        )
    return compare(
        [[pair.ours for pair in outputs] for outputs in saved.pairs],
        [[pair.reference for pair in outputs] for outputs in saved.pairs],
        saved.standing,
        ran_on=str(saved.origin["ran_on"]),
        exact_program=bool(saved.origin["exact_program"]),
    )


def _against(
    baseline: Report | None,
    report: Report,
    bundle: Bundle,
    request: GateRequest,
    progress: Progress,
) -> list[Check]:
    """Measure the speed where that is asked for, into the report; compare with the baseline."""
    from mbv3c.bench.speed import speed_of

    if baseline is None:
        report["speed"] = speed_of(bundle, progress) if request.latency else None
        return []
    if baseline["speed"] is None:
        return compare_with(baseline, report, request.allowed)
    started = time.monotonic()
    for attempt in range(_ATTEMPTS):
        if attempt:
            progress("slower than the baseline: measuring again")
        speed = speed_of(bundle, progress)
        if report["speed"] is None or speed["value"] < report["speed"]["value"]:
            report["speed"] = speed
        checks = compare_with(baseline, report, request.allowed, time.monotonic() - started)
        slower = any(one.name == TIME and not one.passed for one in checks)
        if not slower:
            break
    return checks
