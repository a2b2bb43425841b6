"""Accuracy as a gate: what a measurement on images is held to, and what it is compared with.

A miss has exit code 1: the bundle computes what its model computes, and that is not good enough.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mbv3c import bundle as bundles
from mbv3c.accuracy.tally import BUNDLE, GIVEN, SIDES
from mbv3c.atomic import new_file
from mbv3c.bundle import Bundle
from mbv3c.door.documents import read_json
from mbv3c.errors import EXIT_FAILED, SavedFileError, UsageError
from mbv3c.parity.verdict import Check

FORMAT = "mbv3c accuracy"
SCHEMA = 1
ACCURACY, BASELINE = "accuracy", "baseline"  # suites of checks
USUAL_DROP = 0.01  # against a baseline, where nobody says
_IMAGE = 1e-9  # of an image; shares that are equal on paper differ by less in floats

_NEEDS_CLASSES = "the images' classes, which nobody says"


@dataclass(frozen=True)
class AccuracyGate:
    """What a measurement is held to; None where nothing was said.

    Attributes:
        max_drop: share of the images by which top-1 may fall below the model's as given, and below
            a baseline's.
        min_agreement: least share of the images on which the best class is the model's.
        baseline: an earlier report to compare with.
        report: where to write a report.
        junit: where to write the checks as JUnit XML.
        html: where to write a page.

    Raises:
        UsageError: a share is none.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    baseline: Path | None = None
    report: Path | None = None
    junit: Path | None = None
    html: Path | None = None

    def __post_init__(self) -> None:
        for name, share in (
            ("max-accuracy-drop", self.max_drop),
            ("min-agreement", self.min_agreement),
        ):
            if share is not None and not (isfinite(share) and 0 <= share <= 1):
                raise UsageError(
                    f"--{name} {100 * share:g}% is no share of the images: 0% to 100%"
                )

    @property
    def needs_classes(self) -> bool:
        return self.max_drop is not None


NO_GATE = AccuracyGate()


def judge(gate: AccuracyGate, document: Mapping[str, Any]) -> list[Check]:
    """Hold a measurement to the limits.

    Args:
        gate: the limits.
        document: what was measured, in the documented form.

    Raises:
        UsageError: accuracy is limited and no classes are known.
    """
    checks = []
    if gate.max_drop is not None:
        if document["difference"] is None:
            raise UsageError(f"--max-accuracy-drop needs {_NEEDS_CLASSES}: see docs/accuracy.md")
        checks.append(_drop(document, gate.max_drop))
    if gate.min_agreement is not None:
        checks.append(_agreement(document, gate.min_agreement))
    return checks


def _drop(document: Mapping[str, Any], limit: float) -> Check:
    lost = document["difference"][GIVEN]["top1"]
    ours, theirs = (document["accuracy"][side]["top1"]["share"] for side in (BUNDLE, GIVEN))
    low, high = (100 * lost[key] for key in ("low", "high"))
    fallen = (lost["only_reference"] - lost["only_bundle"]) / document["labelled"]
    return Check(
        ACCURACY,
        f"top-1 less {SIDES[GIVEN]}",
        fallen <= limit + _IMAGE,
        f"{100 * lost['share']:+.2f} points ({low:+.2f} to {high:+.2f}): {ours:.2%} of "
        f"{theirs:.2%} (allowed {-100 * limit:.2f})",
        EXIT_FAILED,
    )


def _agreement(document: Mapping[str, Any], limit: float) -> Check:
    same = document["agreement"][GIVEN]["top1"]
    return Check(
        ACCURACY,
        f"top-1 equal to {SIDES[GIVEN]}",
        same["share"] >= limit - _IMAGE,
        f"{same['share']:.2%}, {same['count']} of {same['of']} (at least {limit:.2%})",
        EXIT_FAILED,
    )


def report_of(bundle: Bundle, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an accuracy report says: what was measured, and what it can be compared with."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "mbv3c": bundle.manifest.mbv3c,
        "bundle": bundle.path.resolve().name,
        "identity": _identity(bundle, document),
        "labelled": document["labelled"],
        "accuracy": document["accuracy"],
        "agreement": document["agreement"],
    }


def _identity(bundle: Bundle, document: Mapping[str, Any]) -> dict[str, Any]:
    prepared = {key: value for key, value in document["preprocessing"].items() if key != "from"}
    return {
        "target": bundle.manifest.target.name,
        "precision": bundle.manifest.precision,
        "model_sha256": bundle.files[bundles.MODEL],
        "images": document["read"],
        "images_sha256": document["images_sha256"],
        "preprocessing": prepared,
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report whole or not at all, over what is there.

    Raises:
        UsageError: its folder is not there.
        BundleError: the place cannot be written.
    """
    with new_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """Read an earlier report.

    Raises:
        UsageError: there is no such file, or it is a report of parity.
        SavedFileError: it is damaged, of another version, or no report.
    """
    again = "write one with `mbv3c verify BUNDLE --images FOLDER --report FILE`"
    if not path.is_file():
        raise UsageError(f"no such file: {path}; {again}")
    try:
        saved = read_json(path)
        known = saved.get("format")
        if known == "mbv3c report":
            raise UsageError(f"{path} is a report of parity, and says nothing of images; {again}")
        if known != FORMAT or saved.get("schema") != SCHEMA:
            raise SavedFileError(f"{path} is no report on images of this version; {again}")
        dict(saved["identity"]), str(saved["bundle"])
        for side in (saved["accuracy"] or {GIVEN: {}, BUNDLE: {}})[BUNDLE].values():
            float(side["share"])
        float(saved["agreement"][GIVEN]["top1"]["share"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SavedFileError(f"{path} is damaged ({error}); {again}") from error
    return dict(saved)


def compare(
    path: Path, baseline: Mapping[str, Any], report: Mapping[str, Any], gate: AccuracyGate
) -> list[Check]:
    """Compare a report with an earlier one.

    Raises:
        UsageError: it is of another model, target or precision, of other images or preprocessing.
    """
    for name, value in report["identity"].items():
        before = baseline["identity"].get(name)
        if before != value:
            raise UsageError(
                f"{path} is no baseline for {report['bundle']}: its {name} is {before}, that of "
                f"this measurement is {value}; write another with --report"
            )
    limit = USUAL_DROP if gate.max_drop is None else gate.max_drop
    return list(_compared(baseline, report, limit))


def _compared(
    baseline: Mapping[str, Any], report: Mapping[str, Any], limit: float
) -> Iterator[Check]:
    pairs = [("agreement", "top-1 agreement", GIVEN)]
    if baseline["accuracy"] and report["accuracy"]:
        pairs.insert(0, ("accuracy", "top-1 accuracy", BUNDLE))
    for key, name, side in pairs:
        was, now = (one[key][side]["top1"]["share"] for one in (baseline, report))
        yield Check(
            BASELINE,
            name,
            was - now <= limit + _IMAGE,
            f"{now:.2%}, was {was:.2%}: {100 * (now - was):+.2f} points (allowed "
            f"{-100 * limit:.2f})",
            EXIT_FAILED,
        )
