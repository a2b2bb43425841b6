"""What a detector's raw boxes and scores mean: non-maximum suppression and its thresholds.

The rules are those of torchvision's `SSD.postprocess_detections` (`models/detection/ssd.py`) and
`ops.batched_nms`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import UsageError

Array = NDArray[Any]

DETECTIONS = ("boxes", "scores", "labels", "images")


@dataclass(frozen=True)
class Thresholds:
    """How many of the boxes are reported; the defaults are torchvision's for SSDLite.

    Attributes:
        score_threshold: score in a class that a box must exceed.
        nms_threshold: overlap (intersection over union) with a better box of its class above
            which a box is dropped.
        topk_candidates: number of the best boxes of each class that are considered.
        detections: number of the best boxes of each image that are reported.

    Raises:
        UsageError: a value makes no sense.
    """

    score_threshold: float = 0.001
    nms_threshold: float = 0.55
    topk_candidates: int = 300
    detections: int = 300

    def __post_init__(self) -> None:
        for field in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, field) <= 1:
                raise UsageError(
                    f"{field.replace('_', '-')} must be from 0 to 1, got {getattr(self, field):g}"
                )
        for field in ("topk_candidates", "detections"):
            if getattr(self, field) < 1:
                raise UsageError(
                    f"{field.replace('_', '-')} must be at least 1, got {getattr(self, field)}"
                )


def detect(
    boxes: Array, scores: Array, height: int, width: int, thresholds: Thresholds
) -> dict[str, Array]:
    """Reduce the raw outputs of a detector to detections, the best of each image first.

    Args:
        boxes: left, top, right and bottom in pixels of the input, `(batch, anchors, 4)`.
        scores: probabilities, `(batch, anchors, classes)`; class 0 is the background.
        height: height of the input, to which boxes are clipped.
        width: width of the input, to which boxes are clipped.
        thresholds: limits of what is reported.

    Returns:
        For D detections `boxes` `(D, 4)`, `scores` `(D,)`, `labels` `(D,)`, the classes, and
        `images` `(D,)`, the image in the batch that shows each.
    """
    clipped = np.clip(boxes, 0, np.array([width, height] * 2, boxes.dtype))
    detected = [_detect_one(b, s, thresholds) for b, s in zip(clipped, scores, strict=True)]
    images = [np.full(len(labels), i, np.int64) for i, (_, _, labels) in enumerate(detected)]
    kinds = (np.concatenate(parts) for parts in (*zip(*detected, strict=True), images))
    return dict(zip(DETECTIONS, kinds, strict=True))


def _detect_one(boxes: Array, scores: Array, thresholds: Thresholds) -> tuple[Array, Array, Array]:
    anchors, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in range(1, scores.shape[1]):
        column = scores[:, label]
        (above,) = np.nonzero(column > thresholds.score_threshold)
        best = above[np.argsort(-column[above], kind="stable")][: thresholds.topk_candidates]
        kept = best[suppress(boxes[best], thresholds.nms_threshold)]
        anchors.append(kept)
        labels.append(np.full(len(kept), label, np.int64))
    kept, classes = np.concatenate(anchors), np.concatenate(labels)
    score = scores[kept, classes]
    order = np.argsort(-score, kind="stable")[: thresholds.detections]
    return boxes[kept[order]], score[order], classes[order]


def suppress(boxes: Array, overlap: float) -> NDArray[np.int64]:
    """Return which boxes remain when each drops the later ones that it overlaps too much.

    Args:
        boxes: boxes of one class, the best first, `(n, 4)`.
        overlap: largest intersection over union that may remain. Two boxes without an area do not
            overlap.
    """
    kept: list[int] = []
    dropped = np.zeros(len(boxes), bool)
    overlaps = _intersection_over_union(boxes) > overlap
    for index in range(len(boxes)):
        if not dropped[index]:
            kept.append(index)
            dropped |= overlaps[index]
    return np.array(kept, np.int64)


def _intersection_over_union(boxes: Array) -> Array:
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low).prod(axis=1)
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    shared = np.maximum(sides, 0).prod(axis=2)
    union = area[:, None] + area - shared
    overlap: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap
