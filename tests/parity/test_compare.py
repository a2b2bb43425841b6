"""The verdict: what passes, what fails, and how it is written down."""

import json
import math

import numpy as np
import pytest

from mbv3c.parity.compare import Parity, agreement, compare
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import TOLERANCES

LOGITS = np.linspace(0, 1, 10, dtype=np.float32).reshape(1, 10)  # range 1, class 9 wins


def verdict(*outputs: np.ndarray, spread: float = 0.0, reference: np.ndarray = LOGITS) -> Parity:
    references = [[ReferenceOutput("logits", reference, spread, 1)]] * len(outputs)
    return judged([[output] for output in outputs], references)


def judged(outputs: list[list[np.ndarray]], references: list[list[ReferenceOutput]]) -> Parity:
    return compare(outputs, references, TOLERANCES["fp32"], ran_on="a test", exact_program=True)


def changed(by: float, index: int = 4) -> np.ndarray:
    """Return the logits with one of them changed, by a fraction of their range."""
    logits = LOGITS.copy()
    logits[0, index] += by
    return logits


def test_equal_outputs_pass() -> None:
    parity = verdict(LOGITS, LOGITS)
    assert parity.passed
    for one in parity.inputs:
        assert one.max_error_of_range == 0
        assert one.cosine == pytest.approx(1, abs=1e-12)
        assert one.top1_agreement == one.top5_agreement == 1


@pytest.mark.parametrize(
    ("by", "spread", "passes"),
    [
        (0.9e-5, 0.0, True),
        (1.2e-5, 0.0, False),
        (1.2e-5, 1e-6, False),  # four times the spread is below the floor
        (1.9e-5, 5e-6, True),
        (2.2e-5, 5e-6, False),
        (-2.2e-5, 5e-6, False),
    ],
)
def test_a_change_passes_within_the_tolerance(by: float, spread: float, passes: bool) -> None:
    parity = verdict(changed(by), spread=spread)
    assert parity.passed is passes
    # Around 0.5, fp32 has steps of 6e-8.
    assert parity.inputs[0].max_error_of_range == pytest.approx(abs(by), abs=6e-8)
    assert parity.inputs[0].allowed == max(1e-5, 4 * spread)


def test_the_error_counts_relative_to_the_range() -> None:
    assert verdict(changed(0.9e-5) * 1000, reference=LOGITS * 1000).passed
    assert not verdict(changed(1.2e-5) * 1000, reference=LOGITS * 1000).passed


def test_one_wrong_input_fails_all() -> None:
    parity = verdict(LOGITS, changed(1e-3), LOGITS)
    assert [one.passed for one in parity.inputs] == [True, False, True]
    assert not parity.passed
    assert parity.worst is parity.inputs[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails(value: float) -> None:
    logits = LOGITS.copy()
    logits[0, 0] = value
    parity = verdict(logits, spread=1.0)
    assert not parity.passed
    assert parity.inputs[0].max_error_of_range == math.inf
    assert parity.inputs[0].top1_agreement == 0


def test_a_reference_with_nan_fails_even_against_itself() -> None:
    broken = LOGITS.copy()
    broken[0, 0] = math.nan
    assert not verdict(broken, reference=broken, spread=math.inf).passed


@pytest.mark.parametrize("spread", [math.inf, math.nan])
def test_a_spread_that_is_not_finite_excuses_nothing(spread: float) -> None:
    """Where onnxruntime contradicts itself there is no reference."""
    assert not verdict(changed(0.1), spread=spread).passed


@pytest.mark.parametrize("shape", [(10,), (2, 5), (1, 10, 1)])
def test_another_shape_fails(shape: tuple[int, ...]) -> None:
    parity = verdict(LOGITS.reshape(shape), spread=1.0)
    assert not parity.passed
    assert parity.inputs[0].cosine == 0


def test_another_winner_within_the_tolerance_is_a_tie() -> None:
    close = LOGITS.copy()
    close[0, 8] = close[0, 9] - np.float32(1e-6)
    swapped = close.copy()
    swapped[0, [8, 9]] = close[0, [9, 8]]
    parity = verdict(swapped, reference=close)
    assert parity.inputs[0].max_error_of_range < parity.inputs[0].allowed
    assert parity.inputs[0].top1_agreement == 1
    assert parity.passed


def test_agreement_is_counted_by_row() -> None:
    reference = np.concatenate([LOGITS, LOGITS])
    output = reference.copy()
    output[1, 0] = 2.0  # the weakest class wins, and pushes class 5 out of the first five
    parity = verdict(output, reference=reference)
    assert parity.inputs[0].top1_agreement == 0.5
    assert parity.inputs[0].top5_agreement == pytest.approx((1 + 4 / 5) / 2)


def test_fewer_than_five_classes() -> None:
    assert verdict(LOGITS[:, :3], reference=LOGITS[:, :3]).inputs[0].top5_agreement == 1


def test_cosine_of_opposite_and_of_zero_outputs() -> None:
    assert verdict(-LOGITS).inputs[0].cosine == pytest.approx(-1)
    zero = np.zeros_like(LOGITS)
    assert verdict(zero, reference=zero).inputs[0].cosine == 1
    assert verdict(zero).inputs[0].cosine == 0


def test_outputs_and_references_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare([[LOGITS]], [], TOLERANCES["fp32"], ran_on="a test", exact_program=True)


def test_json_of_a_pass() -> None:
    document = verdict(changed(1e-6), LOGITS, spread=1e-5).to_json()
    rows = document.pop("inputs")
    assert document == {
        "passed": True,
        "ran_on": "a test",
        "exact_program": True,
        "worst_output": "logits",
        "max_error_of_range": pytest.approx(1e-6, rel=0.05),
        "labels": False,
        "tolerance": 4e-5,
        "reference_spread": 1e-5,
        "cosine": pytest.approx(1),
        "top1_agreement": 1.0,
        "top5_agreement": 1.0,
        "not_checked": None,
        "unproven": False,
    }
    assert [row["passed"] for row in rows] == [True, True]
    assert set(rows[0]) == {
        "passed",
        "worst_output",
        "max_error_of_range",
        "allowed",
        "reference_spread",
        "cosine",
        "top1_agreement",
        "top5_agreement",
        "labels",
    }


def test_json_is_strict_and_says_null_for_what_is_not_finite() -> None:
    document = verdict(LOGITS, np.full_like(LOGITS, math.nan)).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["passed"] is False
    assert document["max_error_of_range"] is None
    assert [row["max_error_of_range"] for row in document["inputs"]] == [0.0, None]
    assert [row["passed"] for row in document["inputs"]] == [True, False]


def test_json_of_a_broken_reference_is_strict() -> None:
    broken = np.full_like(LOGITS, math.nan)
    document = verdict(broken, reference=broken, spread=math.inf).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["passed"] is False
    assert document["reference_spread"] is None


def test_classes_of_a_segmentation_are_on_axis_1() -> None:
    wanted = np.zeros((1, 3, 2, 2), np.float32)
    wanted[0, 1] = 1.0
    other = wanted.copy()
    other[0, :, 0, 0] = [1.0, 0.0, 0.0]
    row = verdict(other, reference=wanted).inputs[0]
    assert row.top1_agreement == 0.75
    assert not row.passed


def test_a_pixel_that_the_reference_holds_for_a_tie_agrees_with_either_class() -> None:
    wanted = np.zeros((1, 3, 2, 2), np.float32)
    wanted[0, 0], wanted[0, 1] = 1.0, 1.0 + 1e-6
    other = wanted.copy()
    other[0, 0] = 1.0 + 2e-6
    row = verdict(other, reference=wanted).inputs[0]
    assert row.top1_agreement == 1.0
    assert row.passed


BOXES = np.array([[[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 20.0, 20.0]]], np.float32)  # range 20
SCORES = np.array([[[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]]], np.float32)  # range 0.9
DETECTION = [
    ReferenceOutput("boxes", BOXES, 0.0, None),
    ReferenceOutput("scores", SCORES, 0.0, 2),
]


def test_of_several_outputs_the_worst_decides() -> None:
    moved = BOXES + np.float32(1e-3)
    parity = judged([[BOXES, SCORES], [moved, SCORES]], [DETECTION] * 2)
    assert [one.passed for one in parity.inputs] == [True, False]
    assert parity.inputs[1].worst_output == "boxes"
    assert parity.inputs[1].max_error_of_range == pytest.approx(5e-5, rel=1e-3)
    assert parity.to_json()["worst_output"] == "boxes"


def test_the_worst_output_is_the_one_closest_to_its_own_limit() -> None:
    references = [DETECTION[0], ReferenceOutput("scores", SCORES, 2e-5, 2)]
    outputs = [BOXES + np.float32(1e-4), SCORES + np.float32(2e-5)]
    row = judged([outputs], [references]).inputs[0]
    assert row.worst_output == "boxes"
    assert row.max_error_of_range < 1e-4 / 0.9
    assert row.allowed == 1e-5


def test_classes_of_anchors_are_on_the_axis_that_the_output_names() -> None:
    swapped = SCORES[:, :, [0, 2, 1]]
    row = judged([[BOXES, swapped]], [DETECTION]).inputs[0]
    assert row.top1_agreement == 0.5
    assert not row.passed


def test_outputs_without_scores_have_no_agreement() -> None:
    parity = judged([[BOXES]], [DETECTION[:1]])
    assert parity.passed
    assert parity.to_json()["top1_agreement"] is None
    assert parity.to_json()["inputs"][0]["top5_agreement"] is None


def test_every_output_must_be_there() -> None:
    with pytest.raises(ValueError, match="zip"):
        judged([[BOXES]], [DETECTION])


def test_what_no_longer_depends_on_the_input_is_another_network() -> None:
    """As of a model whose ranges were taken from pixels that were normalised twice."""
    rng = np.random.default_rng(0)
    wanted = [rng.standard_normal((1, 10)).astype(np.float32) + 9 for _ in range(3)]
    given = [[ReferenceOutput("logits", y, 0.0, 1)] for y in wanted]
    mean = np.mean(wanted, axis=0)
    near = [[y + np.float32(0.1)] for y in wanted]
    stuck = [[mean + np.float32(0.01) * (y - mean)] for y in wanted]
    turned = [[-y] for y in wanted]
    assert agreement(near, given).too_far == ()
    (reason,) = agreement(stuck, given).too_far
    assert reason.startswith("logits hardly depends on the input: from input to input it moves by")
    (reason,) = agreement(turned, given).too_far
    assert reason.startswith("logits is too far from the model as given: cosine -1.000")


def test_inputs_that_hardly_use_what_was_calibrated_say_nothing() -> None:
    """As noise of what looks for text: the model as given finds a little, in int8 it is 0."""
    wanted = [np.linspace(0, top, 50, dtype=np.float32) for top in (0.06, 0.001, 0.0)]
    given = [[ReferenceOutput("text", y, 0.0, None)] for y in wanted]
    nothing = [[np.zeros_like(y)] for y in wanted]
    silent = agreement(nothing, given, calibrated=[1.0])
    assert (silent.too_far, len(silent.unjudged)) == ((), 1)
    for calibrated in (0.5, 0.0):
        assert agreement(nothing, given, calibrated=[calibrated]).too_far


def test_scores_beside_boxes_are_judged_by_their_own_scale() -> None:
    rng = np.random.default_rng(0)
    wanted = [rng.random((1, 6, 50)).astype(np.float32) for _ in range(3)]
    for each in wanted:
        each[:, :4] *= 640
    scale = np.array([640, 640, 640, 640, 1, 1], np.float64).reshape(1, 6, 1)
    given = [[ReferenceOutput("y", y, 0.0, None, scale=scale)] for y in wanted]
    without = [[y * np.where(scale > 1, 1, 0).astype(np.float32)] for y in wanted]
    assert agreement(wanted and [[y] for y in wanted], given).too_far == ()
    assert agreement(without, given).too_far


def test_an_empty_output_agrees() -> None:
    empty = np.zeros((0, 4), np.float32)
    parity = compare(
        [[empty]],
        [[ReferenceOutput("y", empty, 0.0, 1)]],
        TOLERANCES["fp32"],
        ran_on="a test",
        exact_program=True,
    )
    assert parity.passed
