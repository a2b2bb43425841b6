"""`verify` as a gate: what it judges beside the standing rules, and what it writes.

Checks are written as JUnit XML, which CI systems show: testsuites → testsuite → testcase.

There is no standard; elements and attributes are those that Jenkins' schema, junit-10.xsd, has.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mbv3c.atomic import new_file
from mbv3c.bundle import Bundle
from mbv3c.errors import EXIT_PARITY, Mbv3cError, UsageError
from mbv3c.manifest import manifest_digest
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.gate.baseline import (
    TIME,
    Footprint,
    GateRequest,
    Report,
    compare_with,
    read_baseline,
    report_of,
    write_report,
)
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.gate.limits import MetricRow, judge, measure_all
from mbv3c.parity.gate.page import SAVED, write_pictures
from mbv3c.parity.gate.saved_outputs import Saved, load_outputs, save_outputs, saved_of
from mbv3c.parity.own_inputs import OwnInputs
from mbv3c.parity.verdict import Check, Verdict, checks_of, exit_code
from mbv3c.progress import Progress

# What XML 1.0 cannot hold, however it is escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(name: str, checks: Sequence[Check], error: Mbv3cError | None = None) -> bytes:
    """Return a document with one testcase per check, in suites by what they belong to.

    Args:
        name: name of what was verified.
        checks: the checks, in the order of their suites.
        error: the error that stopped the verification; it becomes a separate suite.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    root = ElementTree.Element("testsuites", {"name": _text(name)})
    for suite, group in groupby(checks, key=lambda check: check.suite):
        element = _suite(root, suite, now)
        for check in group:
            _case(element, name, check)
    if error is not None:
        case = _testcase(_suite(root, "verify", now), name, "verify", "runs to its end", 0.0)
        details = {"message": _text(str(error)), "type": _text(error.kind)}
        ElementTree.SubElement(case, "error", details).text = _text(str(error))
    for element in root:
        _count(element, list(element))
    _count(root, [case for element in root for case in element])
    del root.attrib["skipped"]
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _suite(root: ElementTree.Element, name: str, now: str) -> ElementTree.Element:
    return ElementTree.SubElement(root, "testsuite", {"name": name, "timestamp": now})


def _case(suite: ElementTree.Element, name: str, check: Check) -> None:
    case = _testcase(suite, name, check.suite, check.name, check.seconds)
    text = _text(check.finding)
    if check.skipped:
        ElementTree.SubElement(case, "skipped", {"message": text})
    elif not check.passed:
        kind = {"message": text, "type": check.suite}
        ElementTree.SubElement(case, "failure", kind).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _testcase(
    suite: ElementTree.Element, name: str, kind: str, what: str, seconds: float
) -> ElementTree.Element:
    # CI systems take what is before the last dot of a class for its package.
    classname = f"{name.replace('.', '_')}.{kind}"
    attributes = {"classname": _text(classname), "name": _text(what), "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(suite, "testcase", attributes)


def _count(element: ElementTree.Element, cases: list[ElementTree.Element]) -> None:
    element.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    element.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def _text(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


_ATTEMPTS = 3


@dataclass(frozen=True)
class Subject:
    """A bundle that goes through the gate, and what can be done with it.

    Attributes:
        bundle: the bundle.
        footprint: what the bundle takes.
        verify: function that verifies the bundle.
        speed: function that measures the speed, for `report_of`; None if it runs elsewhere.
        blocks: function that runs the blocks by themselves, or says why that is not possible.
        own: the user's own inputs, on which it is verified; None for the seeded ones.
    """

    bundle: Bundle
    footprint: Footprint
    verify: Callable[[], Verdict]
    speed: Callable[[], dict[str, Any]] | None
    blocks: Callable[[], BlockErrors | str]
    own: OwnInputs | None = None


@dataclass(frozen=True)
class GateResult:
    """What came out.

    Attributes:
        document: the verdict in the documented JSON form.
        lines: the verdict in words.
        rows: the metrics.
        checks: everything that was checked, by the standing rules first.
        blocks: what blocks by themselves have shown, in the documented form; None if not asked.
    """

    document: dict[str, Any]
    lines: list[str]
    rows: list[MetricRow]
    checks: list[Check]
    blocks: list[dict[str, Any]] | None = None

    @property
    def exit_code(self) -> int:
        return exit_code(self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; `checks` without those of the standing rules."""
        added = [check for check in self.checks if check.suite in ("limits", "baseline")]
        missed = any(check.exit_code == EXIT_PARITY for check in self.checks if not check.passed)
        return {
            **self.document,
            "passed": not missed,
            "metrics": [row.to_json() for row in self.rows],
            "checks": [check.to_json() for check in added],
            "blocks": self.blocks,
            "exit_code": self.exit_code,
        }


def verify_and_judge(
    name: str, open_subject: Callable[[], Subject], request: GateRequest, progress: Progress
) -> GateResult:
    """Verify a bundle, hold it to limits and to a baseline, and write what was asked for.

    A bundle that cannot be opened is an error that JUnit's file has, too.

    Raises:
        UsageError: the baseline or a limit does not fit the bundle.
        Mbv3cError: the bundle cannot be verified or measured, or a file cannot be read or written.
    """
    with Junit(request.junit, name) as junit:
        subject = open_subject()
        bundle, own, baseline = subject.bundle, subject.own, _baseline(subject, request)
        started = time.monotonic()
        verdict = subject.verify()
        seconds = time.monotonic() - started
        rows = measure_all(verdict.pairs)
        checks = [*checks_of(verdict, seconds), *judge(request.limits, verdict.pairs, rows)]
        junit.checks = checks
        if request.save_outputs is not None:
            save_outputs(request.save_outputs, saved_of(bundle, verdict, own))
        report = report_of(bundle, subject.footprint, verdict, rows, None, own)
        checks += _against(baseline, report, subject, request, progress)
        if request.report is not None:
            write_report(request.report, report)
        shown = None
        if request.plot is not None or request.html is not None:
            blocks = subject.blocks()
            write_pictures(request, saved_of(bundle, verdict, own), checks, rows, blocks)
            shown = None if isinstance(blocks, str) else blocks.to_json()
    document = {
        "bundle": name,
        "bundle_sha256": manifest_digest(bundle.path),
        **verdict.to_json(),
        "own_inputs": own and own.to_json(),
    }
    lines = [*verdict.lines(), *([f"inputs: {own.source}"] if own else [])]
    return GateResult(document, lines, rows, checks, shown)


def _baseline(subject: Subject, request: GateRequest) -> Report | None:
    baseline = None
    if request.baseline is not None:
        cores = subject.footprint.cores
        baseline = read_baseline(request.baseline, subject.bundle, cores, subject.own)
    has_speed = baseline is not None and baseline["speed"] is not None
    if (request.latency or has_speed) and subject.speed is None:
        raise UsageError(
            "speed is measured on this machine: leave out --device and --tracker, or --latency "
            "and a --baseline that has a speed"
        )
    if request.latency and baseline is not None and not has_speed:
        raise UsageError(
            f"{request.baseline} says nothing about speed; write it with --report --latency"
        )
    return baseline


def check_again(path: Path, request: GateRequest) -> GateResult:
    """Judge saved outputs: by the limits, or without any by the standing rules.

    Raises:
        UsageError: there is no such file, or nothing to judge by.
        SavedFileError: the file is damaged or another one.
        Mbv3cError: a file cannot be written.
    """
    with Junit(request.junit, path.name) as junit:
        started = time.monotonic()
        saved = load_outputs(path)
        rows = measure_all(saved.pairs)
        document: dict[str, Any] = {key: saved.origin[key] for key in ("ran_on", "exact_program")}
        origin = f"outputs of {saved.origin['bundle']}, "
        if request.limits:
            checks = judge(request.limits, saved.pairs, rows)
            passed = "MISSED" if exit_code(checks) else "passed"
            lines = [f"{origin}by the limits given: {passed} on {document['ran_on']}"]
        else:
            again = _standing(path, saved)
            checks, document = again.checks(), again.to_json()
            lines = [f"{origin}{line}" for line in again.lines()]
        if saved.origin["own_inputs"] is not None:
            lines.append(f"inputs: {saved.origin['own_inputs']}")
        if checks:
            checks[0] = replace(checks[0], seconds=time.monotonic() - started)
        junit.checks = checks
        if request.plot is not None or request.html is not None:
            write_pictures(request, saved, checks, rows, SAVED)
    return GateResult({**document, "saved": dict(saved.origin)}, lines, rows, checks)


class Junit:
    """Writes the checks when a block ends, also where it ends by an error.

    Attributes:
        checks: the checks, which the block sets.
    """

    def __init__(self, path: Path | None, name: str) -> None:
        self._path, self._name = path, name
        self.checks: list[Check] = []

    def __enter__(self) -> "Junit":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._path is None or not (error is None or isinstance(error, Mbv3cError)):
            return
        with new_file(self._path, force=True) as temporary:
            temporary.write_bytes(junit_xml(self._name, self.checks, error))


def _standing(path: Path, saved: Saved) -> Parity:
    again = judged_again(saved)
    if again is None:
        raise UsageError(
            f"{path} is of an NPU bundle, which `verify` judges by more than its outputs; give "
            "limits to judge these by, such as --min-cosine 0.99"
        )
    return again


def judged_again(saved: Saved) -> Parity | None:
    """Judge saved outputs by the standing rules; None where these judge something else."""
    if saved.standing is None:
        return None
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
    subject: Subject,
    request: GateRequest,
    progress: Progress,
) -> list[Check]:
    """Measure the speed where that is asked for, into the report; compare with the baseline."""
    measure = subject.speed
    if baseline is None:
        report["speed"] = measure() if request.latency and measure is not None else None
        return []
    if baseline["speed"] is None or measure is None:
        return compare_with(baseline, report, request.allowed)
    started = time.monotonic()
    for attempt in range(_ATTEMPTS):
        if attempt:
            progress("slower than the baseline: measuring again")
        speed = measure()
        if report["speed"] is None or speed["value"] < report["speed"]["value"]:
            report["speed"] = speed
        checks = compare_with(baseline, report, request.allowed, time.monotonic() - started)
        if all(check.passed for check in checks if check.name == TIME):
            break
    return checks
