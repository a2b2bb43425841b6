"""The names of classes."""

from pathlib import Path

import numpy as np
import pytest

from mbv3c.ends.ends import Ends, Outputs
from mbv3c.ends.labels import best_classes, read_labels
from mbv3c.errors import UsageError


def test_a_name_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffgreat white shark, Carcharodon\r\nknäckebröd\r\ncrane\ncrane".encode())
    assert read_labels(path) == ("great white shark, Carcharodon", "knäckebröd", "crane", "crane")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"ant\n\nbee\n", "line 2"), (b"ant\x1b[2J\n", "line 1"), (b"\xff\xfe", "no text file"),
     (b"", "line 1")],
)  # fmt: skip
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_labels(path)
    with pytest.raises(UsageError, match="no such file"):
        read_labels(tmp_path / "none.txt")


def test_classes_are_named_best_first_and_ties_in_their_order() -> None:
    scores = np.array([[0, 7, 7, 1], [3, 2, 1, 0]], np.uint8)
    named = best_classes(Ends(labels=("a", "b", "c", "d")), [scores])
    assert [(one.image, one.label, one.score) for one in named] == [
        *((0, "b", 7), (0, "c", 7), (0, "d", 1), (0, "a", 0)),
        *((1, "a", 3), (1, "b", 2), (1, "c", 1), (1, "d", 0)),
    ]
    best = best_classes(
        Ends(outputs=Outputs(top=1)), [np.array([[0.5]], np.float32), np.array([[6]])]
    )
    assert [(one.index, one.label, one.score) for one in best] == [(6, "", 0.5)]
    assert best_classes(Ends(outputs=Outputs(softmax=True)), [scores]) == []
