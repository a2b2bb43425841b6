"""What outputs mean follows from their shapes and the metadata."""

from dataclasses import replace

import pytest

from mbv3c.errors import UsageError
from mbv3c.manifest import Manifest, ModelRecord, TensorRecord
from mbv3c.pictures.meaning import Meaning, check_top, meaning_of
from tests.manifests import LIBRARY

NAMES = '["ant", "bee"]'


def manifest(*shapes: tuple[int, ...], dtype: str = "float32", **metadata: str) -> Manifest:
    outputs = tuple(TensorRecord(f"y{at}", shape, dtype) for at, shape in enumerate(shapes))
    entries = {f"mbv3c.{key}": value for key, value in metadata.items()}
    images = TensorRecord("input", (2, 3, 8, 8), "float32")
    return replace(LIBRARY, input=images, outputs=outputs, model=ModelRecord("g", entries))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (manifest((2, 7)), Meaning("scores")),
        (manifest((2, 9, 4), (2, 7, 1, 1)), Meaning("scores", output=1)),
        (manifest((2, 2), class_names=NAMES), Meaning("scores", ("ant", "bee"))),
        (manifest((2, 1), (2, 1), outputs="top1", classes="2"), Meaning("best classes")),
        (
            manifest((2, 9, 4), (2, 9, 3), detector='{"boxes": "y0", "scores": "y1"}'),
            Meaning("boxes"),
        ),
        (manifest((2, 21, 8, 8)), Meaning("map of scores")),
        (manifest((2, 8, 8, 3), class_axes='{"y0": 3}'), Meaning("map of scores", axis=3)),
        (manifest((2, 8, 8), dtype="int64"), Meaning("map of classes")),
        (manifest((2, 1, 8, 8), dtype="int32"), Meaning("map of classes")),
        (manifest((2, 3, 8, 8)), Meaning("numbers")),  # a picture, as likely
        (manifest((2, 9, 4)), Meaning("numbers")),
    ],
)
def test_outputs_mean_something(given: Manifest, meant: Meaning) -> None:
    assert meaning_of(given) == meant


def test_labels_take_the_place_of_names() -> None:
    given = manifest((2, 2), class_names=NAMES)
    assert meaning_of(given, ("x", "x")).names == ("x", "x")
    with pytest.raises(UsageError, match="--labels has 1 lines, and the model has 2 classes"):
        meaning_of(given, ("x",))
    assert meaning_of(manifest((2, 2))).called(1) == "class 1"
    assert meaning_of(given).called(1) == "bee"


def test_a_number_of_answers() -> None:
    check_top(None, Meaning("numbers"))
    check_top(1, Meaning("scores"))
    with pytest.raises(UsageError, match="--top 0 shows nothing"):
        check_top(0, Meaning("scores"))
    with pytest.raises(UsageError, match="the outputs are none of these"):
        check_top(5, Meaning("numbers"))
