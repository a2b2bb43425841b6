"""Outputs become answers for each picture, in the picture's own pixels."""

import numpy as np

from mbv3c.ends.labels import BestClass
from mbv3c.pictures.answers import Area, Asked, Box, Placing, answers, images_in
from mbv3c.pictures.meaning import Meaning

NAMES = ("ant", "bee", "cat")
HERE = Placing((0, 0, 8, 8), 8, 8)


def test_the_best_classes_of_each_picture() -> None:
    scores = np.array([[[0.1]], [[0.7]], [[0.2]]], np.float32).transpose(1, 0, 2)
    meaning = Meaning("scores", NAMES)
    rows = np.concatenate([scores, -scores])
    first, second = answers(meaning, {"y": rows}, Asked(2), [HERE, HERE])
    assert [one.label for one in first.classes] == ["bee", "cat"]
    assert second.classes[0] == BestClass(1, 0, "ant", -np.float32(0.1))
    assert first.words(meaning) == ["0.7 bee", "0.2 cat"]
    assert images_in(meaning, {"y": rows}) == 2
    assert images_in(Meaning("scores", axis=0), {"y": np.zeros(5)}) == 1


def test_given_classes_are_taken_as_they_are() -> None:
    arrays = {"scores": np.array([[0.9, 0.1]]), "classes": np.array([[7, 1]])}
    (answer,) = answers(Meaning("best classes", NAMES), arrays, Asked(), [HERE])
    assert answer.classes == (BestClass(0, 7, "", 0.9), BestClass(0, 1, "bee", 0.1))


def test_boxes_are_where_they_are_in_the_picture() -> None:
    found = {
        "boxes": np.array([[0, 0, 10, 20], [5, 5, 10, 10], [0, 0, 1, 1]], np.float32),
        "scores": np.array([0.9, 0.4, 0.2], np.float32),
        "labels": np.array([1, 2, 2]),
        "images": np.array([0, 1, 0]),
    }
    # The network sees 40 x 80 pixels in the middle of a picture, as 10 x 20.
    placing = Placing((30, 10, 70, 90), height=20, width=10)
    first, second = answers(Meaning("boxes", NAMES), found, Asked(), [placing, placing])
    (box,) = first.boxes
    assert box == Box(1, "bee", float(np.float32(0.9)), 30, 10, 70, 90)
    (box,) = second.boxes
    assert (box.left, box.top, box.right, box.bottom) == (50, 30, 70, 50)
    low = answers(Meaning("boxes", NAMES), found, Asked(1, 0.1), [placing])
    assert [len(answer.boxes) for answer in low] == [1]


def test_a_map_is_cut_into_areas() -> None:
    map_ = np.array([[[0, 2, 2, 2]], [[1, 1, 1, 1]]])
    first, second = answers(Meaning("map of classes", NAMES), {"y": map_}, Asked(), [HERE, HERE])
    assert first.areas == (Area(2, "cat", 0.75), Area(0, "ant", 0.25))
    scores = np.eye(3)[map_]  # N, H, W, classes
    for axis, array in ((3, scores), (1, scores.transpose(0, 3, 1, 2))):
        meaning = Meaning("map of scores", NAMES, axis=axis)
        again = answers(meaning, {"y": array}, Asked(1), [HERE, HERE])[1]
        assert again.areas == second.areas == (Area(1, "bee", 1.0),)
        assert again.map is not None and again.map.tolist() == [[1, 1, 1, 1]]


def test_other_outputs_say_nothing() -> None:
    (answer,) = answers(Meaning("numbers"), {"y": np.zeros((1, 3, 8, 8))}, Asked(), [HERE])
    assert answer.to_json() == {}
