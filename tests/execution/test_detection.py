"""Non-maximum suppression, against torchvision's rules spelled out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.errors import UsageError
from mbv3c.execution.detection import Thresholds, detect, suppress

ALL = Thresholds(score_threshold=0.0)


def image(*objects: tuple[list[float], list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and scores of one image; an object is a box and the scores of its classes."""
    boxes = np.array([[box for box, _ in objects]], np.float32)
    scores = np.array([[[0.0, *scores] for _, scores in objects]], np.float32)
    return boxes, scores


def overlap(a: list[float], b: list[float]) -> float:
    shared = 1.0
    for axis in (0, 1):
        shared *= max(0.0, min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis]))
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union else 0.0


def detected(boxes: list[list[float]], scores: list[list[float]], limits: Thresholds) -> list:
    """Do in plain loops what `detect` does with one image: (score, label, anchor)."""
    found = []
    for label in range(1, len(scores[0])):
        rows = [
            (row[label], i) for i, row in enumerate(scores) if row[label] > limits.score_threshold
        ]
        rows = sorted(rows, key=lambda row: -row[0])[: limits.topk_candidates]
        kept: list[tuple[float, int]] = []
        for score, i in rows:
            if all(overlap(boxes[i], boxes[j]) <= limits.nms_threshold for _, j in kept):
                kept.append((score, i))
        found += [(score, label, i) for score, i in kept]
    return sorted(found, key=lambda row: -row[0])[: limits.detections]


# Eighths, so that areas are exact and only the quotient rounds.
sides = st.tuples(*[st.integers(0, 40)] * 4)
boxes_of_eighths = sides.map(
    lambda s: [min(s[0], s[2]) / 8, min(s[1], s[3]) / 8, max(s[0], s[2]) / 8, max(s[1], s[3]) / 8]
)


@given(
    st.lists(
        st.tuples(boxes_of_eighths, st.lists(st.integers(0, 8), min_size=2, max_size=2)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([0.0, 0.15, 0.45, 0.55, 1.0]),
    st.integers(1, 6),
    st.integers(1, 8),
)
def test_does_what_the_loops_do(
    objects: list, nms_threshold: float, candidates: int, detections: int
) -> None:
    limits = Thresholds(0.2, nms_threshold, candidates, detections)
    boxes, scores = image(*((box, [s / 8 for s in eighths]) for box, eighths in objects))
    found = detect(boxes, scores, 5, 5, limits)
    wanted = detected(boxes[0].tolist(), scores[0].tolist(), limits)
    assert found["scores"].tolist() == [score for score, _, _ in wanted]
    assert found["labels"].tolist() == [label for _, label, _ in wanted]
    assert found["boxes"].tolist() == [boxes[0, i].tolist() for _, _, i in wanted]
    assert found["images"].tolist() == [0] * len(wanted)


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, [0, 2]), (0.61, [0, 1, 2])])
def test_a_box_falls_to_a_better_one_that_it_overlaps(threshold: float, kept: list[int]) -> None:
    """The first two share 6 x 10 of 100 in all: 0.6; the third touches them."""
    boxes = np.array([[0, 0, 8, 10], [2, 0, 10, 10], [10, 0, 20, 10]], np.float32)
    assert suppress(boxes, threshold).tolist() == kept


def test_a_box_that_fell_drops_no_other() -> None:
    """Each overlaps its neighbour by 1/3; the middle one falls and spares the last."""
    boxes = np.array([[0, 0, 10, 1], [5, 0, 15, 1], [10, 0, 20, 1]], np.float32)
    assert suppress(boxes, 0.3).tolist() == [0, 2]


def test_classes_do_not_suppress_each_other_and_the_background_is_dropped() -> None:
    boxes, scores = image(([0, 0, 5, 5], [0.4, 0.3]), ([0, 0, 5, 5], [0.2, 0.5]))
    scores[..., 0] = 0.9
    found = detect(boxes, scores, 10, 10, ALL)
    assert found["labels"].tolist() == [2, 1]
    assert found["scores"].tolist() == pytest.approx([0.5, 0.4])


def test_boxes_are_clipped_to_the_image_before_they_are_compared() -> None:
    boxes, scores = image(([-90, 0, 10, 10], [0.9]), ([0, -90, 12, 10], [0.8]))
    found = detect(boxes, scores, 10, 20, ALL)
    assert found["boxes"].tolist() == [[0, 0, 10, 10]]
    wide = detect(*image(([5, 5, 99, 99], [0.9])), 10, 20, ALL)
    assert wide["boxes"].tolist() == [[5, 5, 20, 10]]


def test_a_score_must_exceed_the_threshold() -> None:
    boxes, scores = image(([0, 0, 5, 5], [0.5]), ([6, 6, 9, 9], [0.25]))
    found = detect(boxes, scores, 10, 10, Thresholds(score_threshold=0.25))
    assert found["scores"].tolist() == [0.5]


def test_nothing_found() -> None:
    found = detect(*image(([0, 0, 5, 5], [0.5])), 10, 10, Thresholds(score_threshold=0.9))
    assert {name: array.shape for name, array in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
        "images": (0,),
    }


def test_images_of_a_batch_stay_apart() -> None:
    boxes, scores = image(([0, 0, 5, 5], [0.5]), ([0, 0, 5, 5], [0.4]))
    scores = np.concatenate([scores, 1.5 * scores])
    found = detect(np.concatenate([boxes, boxes]), scores, 10, 10, ALL)
    assert found["images"].tolist() == [0, 1]
    assert found["scores"].tolist() == pytest.approx([0.5, 0.75])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score_threshold": -0.1}, "score-threshold must be from 0 to 1, got -0.1"),
        ({"nms_threshold": 1.5}, "nms-threshold must be from 0 to 1, got 1.5"),
        ({"topk_candidates": 0}, "topk-candidates must be at least 1, got 0"),
        ({"detections": 0}, "detections must be at least 1, got 0"),
    ],
)
def test_thresholds_that_make_no_sense(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Thresholds(**wrong)
