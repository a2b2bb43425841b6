"""Limits: how they are read, what keeps them, what does not."""

import math

import numpy as np
import pytest

from mbv3c.errors import UsageError
from mbv3c.parity.gate.limits import BOUNDS, judge, limits_of, measure_all
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.verdict import Check, Pair, Pairs

WANTED = np.array([[0.0, 1.0, 2.0, 4.0]], np.float32)
OURS = np.array([[0.0, 1.0, 2.5, 4.0]], np.float32)
BOXES = np.zeros((1, 2, 4), np.float32)


def pairs(ours: np.ndarray = OURS, wanted: np.ndarray = WANTED) -> Pairs:
    logits = Pair(ours, ReferenceOutput("logits", wanted, 0.0, 1))
    return ((logits, Pair(BOXES, ReferenceOutput("boxes", BOXES, 0.0, None))),)


def judged(given: dict[str, float], *quantiles: str, of: Pairs | None = None) -> list[Check]:
    found = of or pairs()
    return judge(limits_of(given, quantiles), found, measure_all(found))


@pytest.mark.parametrize(
    ("name", "kept", "missed"),
    [
        ("max_abs", 0.5, 0.49),
        ("mean_abs", 0.125, 0.124),
        ("max_rel", 0.25, 0.24),
        ("mean_rel", 0.0625, 0.062),
        ("max_of_range", 0.125, 0.124),
        ("min_cosine", 0.99, 0.999),
        ("min_psnr", 24.0, 24.1),  # 20 log10(4 / 0.25) = 24.08
        ("min_snr", 19.2, 19.3),  # 10 log10(21 / 0.25) = 19.24
        ("min_top1", 1.0, 1.01),
        ("min_top5", 1.0, 1.01),
    ],
)
def test_every_limit_can_be_kept_and_missed(name: str, kept: float, missed: float) -> None:
    assert all(check.passed for check in judged({name: kept}))
    logits, *others = judged({name: missed})
    assert not logits.passed
    assert logits.name == f"--{name.replace('_', '-')} of logits, input 0"
    assert all(check.passed for check in others)  # boxes are equal


def test_that_is_all_of_them() -> None:
    assert len(BOUNDS) == 10


def test_a_quantile_of_the_errors() -> None:
    # Errors 0, 0, 0, 0.5: two thirds of the way from the third to the fourth is at 66.7 %.
    assert all(check.passed for check in judged({}, "50:0", "90:0.36"))
    missed = judged({}, "90:0.34")[0]
    assert (missed.passed, missed.name) == (False, "--quantile 90 of logits, input 0")
    assert missed.finding == "0.35 (at most 0.34)"


def test_a_limit_on_scores_does_not_concern_boxes() -> None:
    assert [check.name for check in judged({"min_top1": 1})] == ["--min-top1 of logits, input 0"]
    only_boxes = (pairs()[0][1:],)
    with pytest.raises(UsageError, match="--min-top5 is on class scores, and no output holds any"):
        judged({"min_top5": 1}, of=only_boxes)


@pytest.mark.parametrize("name", BOUNDS)
def test_nan_keeps_no_limit(name: str) -> None:
    broken = OURS.copy()
    broken[0, 0] = math.nan
    loose = -math.inf if BOUNDS[name].least else math.inf
    check = judged({name: loose}, of=pairs(broken))[0]
    assert not check.passed
    assert "1 of 4 values are not finite or of another shape" in check.finding


def test_another_shape_keeps_no_limit() -> None:
    checks = judged({"max_abs": math.inf}, "99:inf", of=pairs(OURS[:, :3]))
    assert not checks[0].passed
    assert "nothing to compare" in checks[0].finding
    assert not checks[2].passed


def test_what_is_empty_on_both_sides_is_equal() -> None:
    empty = np.empty((1, 0), np.float32)
    assert all(
        check.passed for check in judged({"max_abs": 0, "min_psnr": 99}, of=pairs(empty, empty))
    )


@pytest.mark.parametrize(
    "text", ["99", "99:", ":1e-4", "101:1", "-1:1", "x:1", "99:y", "99:nan", ""]
)
def test_a_quantile_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no PERCENT:ERROR, such as 99:1e-4"):
        limits_of({}, [text])


def test_nan_and_errors_below_0_are_no_limits() -> None:
    with pytest.raises(UsageError, match="--max-abs nan limits nothing"):
        limits_of({"max_abs": math.nan}, [])
    with pytest.raises(UsageError, match="--max-abs -1: no error is below 0"):
        limits_of({"max_abs": -1.0}, ())
