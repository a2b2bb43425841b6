"""What was measured on images is held to limits and to an earlier measurement."""

import json
from pathlib import Path
from typing import Any

import pytest

from mbv3c.accuracy.gate import AccuracyGate, compare, judge, read_report
from mbv3c.accuracy.page import write_page
from mbv3c.accuracy.tally import BUNDLE, GIVEN, Tally
from mbv3c.errors import Mbv3cError, SavedFileError, UsageError
from mbv3c.parity.verdict import Check, exit_code
from tests.accuracy.test_report import PREPROCESSING


def measured(count: int, wrong: int, labelled: bool = True) -> dict[str, Any]:
    """Return a measurement on images of class 1, of which the bundle gets some wrong."""
    tally = Tally((GIVEN,))
    tally.add_all(
        {
            "file": f"{at}.jpg",
            "label": 1 if labelled else None,
            GIVEN: [1, 2],
            BUNDLE: [3 if at < wrong else 1, 2],
        }
        for at in range(count)
    )
    return {
        **tally.to_json(),
        "folder": "photos",
        "images": count,
        "seed": None,
        "ran_on": "this machine",
        "labels": "the folders",
        "preprocessing": PREPROCESSING,
        "class_names": ["<a>", "b", "c", "d"],
        "list": "list.csv",
    }


def of(checks: list[Check]) -> list[tuple[bool, int]]:
    return [(check.passed, check.exit_code) for check in checks]


@pytest.mark.parametrize(
    ("wrong", "passed"), [(0, (True, True)), (3, (True, True)), (4, (False, False))]
)
def test_limits_are_kept_to_the_image(wrong: int, passed: tuple[bool, bool]) -> None:
    gate = AccuracyGate(max_drop=0.03, min_agreement=0.97)
    checks = judge(gate, measured(100, wrong))
    assert of(checks) == [(one, 1) for one in passed]
    assert exit_code(checks) == (0 if all(passed) else 1)
    if wrong == 4:
        assert checks[0].finding.startswith("-4.00 points (-9.")
        assert checks[0].finding.endswith("96.00% of 100.00% (allowed -3.00)")
        assert checks[1].finding == "96.00%, 96 of 100 (at least 97.00%)"


def test_accuracy_needs_classes_and_agreement_does_not() -> None:
    document = measured(10, 1, labelled=False)
    assert of(judge(AccuracyGate(min_agreement=0.9), document)) == [(True, 1)]
    with pytest.raises(UsageError, match="--max-accuracy-drop needs the images' classes"):
        judge(AccuracyGate(max_drop=0.1), document)


def report(wrong: int, **identity: object) -> dict[str, Any]:
    document = measured(100, wrong)
    return {
        "format": "mbv3c accuracy",
        "schema": 1,
        "bundle": "b",
        "identity": {"target": "host_cpu:native", **identity},
        "accuracy": document["accuracy"],
        "agreement": document["agreement"],
    }


def test_an_earlier_measurement_is_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(report(1)))
    before = read_report(path)
    assert of(compare(path, before, report(2), AccuracyGate())) == [(True, 1)] * 2
    missed = compare(path, before, report(3), AccuracyGate())
    assert of(missed) == [(False, 1)] * 2
    assert missed[0].finding == "97.00%, was 99.00%: -2.00 points (allowed -1.00)"
    assert of(compare(path, before, report(3), AccuracyGate(max_drop=0.02))) == [(True, 1)] * 2
    with pytest.raises(UsageError, match="no baseline for b: its images is None, that of this"):
        compare(path, before, report(1, images=3), AccuracyGate())


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ("{", SavedFileError, "is damaged"),
        ('{"format": "mbv3c report"}', UsageError, "is a report of parity"),
        ('{"format": "other"}', SavedFileError, "is no report on images of this version"),
        ('{"format": "mbv3c accuracy", "schema": 1}', SavedFileError, "is damaged"),
        ("[]", SavedFileError, "is damaged"),
    ],
)
def test_other_files_are_no_baseline(
    tmp_path: Path, content: str, kind: type[Mbv3cError], words: str
) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(kind, match=words):
        read_report(tmp_path / "r.json")


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_a_limit_is_a_share(share: float) -> None:
    with pytest.raises(UsageError, match=r"--max-accuracy-drop .* is no share"):
        AccuracyGate(max_drop=share)


def test_the_page_escapes_and_says_what_is_missed_first(tmp_path: Path) -> None:
    document = measured(100, 4)
    checks = judge(AccuracyGate(max_drop=1, min_agreement=0.97), document)
    write_page(tmp_path / "p.html", "<b>", document, checks)
    text = (tmp_path / "p.html").read_text()
    assert "✗ MISSED: 1 of 2 checks" in text
    assert text.index("top-1 equal to") < text.index("top-1 less")
    assert "&lt;b&gt;" in text and "<b>" not in text and "<script" not in text
