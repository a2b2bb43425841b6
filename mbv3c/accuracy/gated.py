"""Measure a bundle on images, hold it to a gate, and write what was asked for."""

import time
from typing import Any

from mbv3c.accuracy.gate import AccuracyGate, compare, judge, read_report, report_of, write_report
from mbv3c.accuracy.measure import AccuracyRequest, Open, Report, measure_accuracy
from mbv3c.accuracy.page import write_page
from mbv3c.bundle import Bundle
from mbv3c.parity.gate.gate import Junit
from mbv3c.parity.verdict import Check


def measured(
    bundle: Bundle,
    open_bundle: Open,
    request: AccuracyRequest,
    report: Report,
    gate: AccuracyGate,
) -> tuple[dict[str, Any], list[Check]]:
    """Measure a bundle on images, and return the documented keys and what it was held to.

    Args:
        bundle: the bundle.
        open_bundle: as `measure_accuracy` takes it.
        request: what the user asked for.
        report: function that is told what happens.
        gate: what the measurement is held to, and the files to write.

    Raises:
        UsageError: as `measure_accuracy` says, or the baseline is of something else.
        SavedFileError: the baseline is damaged.
        Mbv3cError: the bundle fails, or a file cannot be written.
    """
    name = bundle.path.resolve().name
    with Junit(gate.junit, name) as junit:
        baseline = None if gate.baseline is None else read_report(gate.baseline)
        started = time.monotonic()
        document = measure_accuracy(bundle, open_bundle, request, report)
        seconds = time.monotonic() - started
        ran = Check(
            "accuracy",
            f"runs on {document['ran_on']}",
            True,
            f"{document['read']} images, {document['broken']} broken",
            seconds=seconds,
        )
        checks = judge(gate, document)
        made = report_of(bundle, document)
        if gate.baseline is not None and baseline is not None:
            checks += compare(gate.baseline, baseline, made, gate)
        junit.checks = [ran, *checks]
        if gate.report is not None:
            write_report(gate.report, made)
        if gate.html is not None:
            write_page(gate.html, name, document, checks)
    return document, checks
