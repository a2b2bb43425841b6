"""Which images there are, and which class each has."""

import os
import random
from pathlib import Path

import pytest

from mbv3c.accuracy.image_sets import NO_LABELS, Classes, class_indices, open_images
from mbv3c.errors import UsageError

SUFFIXES = (".jpg", ".png")
THREE = Classes(3)


def tree(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    return folder


def found(
    folder: Path, classes: Classes = THREE, **options: object
) -> list[tuple[str, int | None]]:
    images = open_images(folder, classes, SUFFIXES, **options)
    once = [(image.file, image.label) for image in images.read()]
    assert once == [(image.file, image.label) for image in images.read()]
    assert len(once) == images.chosen
    assert images.labelled == any(label is not None for _, label in once)
    return once


def test_as_many_folders_as_classes_are_the_classes_in_order(tmp_path: Path) -> None:
    tree(tmp_path, "dog/2.jpg", "cat/1.PNG", "cat/deep/er/0.jpg", "cow/readme.txt", ".git/x.jpg")
    assert found(tmp_path) == [("cat/1.PNG", 0), ("cat/deep/er/0.jpg", 0), ("dog/2.jpg", 2)]


def test_numbers_are_indices_and_may_leave_classes_out(tmp_path: Path) -> None:
    tree(tmp_path, "10/a.jpg", "2/b.jpg", "007/c.jpg")
    assert found(tmp_path, Classes(11)) == [("007/c.jpg", 7), ("10/a.jpg", 10), ("2/b.jpg", 2)]


def test_names_are_those_of_the_model(tmp_path: Path) -> None:
    tree(tmp_path, "cat/a.jpg", "dog/b.jpg")
    known = Classes(3, ("dog", "cow", "cat"))
    assert found(tmp_path, known) == [("cat/a.jpg", 2), ("dog/b.jpg", 0)]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cat", "dog"], THREE),
        (["cat", "dog", "cow", "hen"], THREE),
        (["1", "2", "3"], Classes(2)),
        # From 1 on, their order as text is not that as numbers.
        ([str(one) for one in range(1, 12)], Classes(11)),
        (["1", "01", "2", "5"], THREE),
        (["cat", "dgo"], Classes(3, ("dog", "cow", "cat"))),
    ],
)
def test_anything_else_is_an_error_that_says_what_would_do(
    names: list[str], classes: Classes
) -> None:
    with pytest.raises(UsageError) as error:
        class_indices(names, classes, "the folders of x")
    count = classes.count
    for part in (f"exactly {count}", f"0 to {count - 1}", "class_names", "--labels CSV", "none"):
        assert part in str(error.value)


def test_numbers_from_one_are_taken_where_their_order_is_plain() -> None:
    indices, _ = class_indices(["3", "1", "2"], THREE, "x")
    assert indices == {"1": 0, "2": 1, "3": 2}


def test_a_folder_without_folders_has_no_labels(tmp_path: Path) -> None:
    tree(tmp_path, "b.jpg", "a.png", "notes.txt")
    (tmp_path / "c.jpg").mkdir()  # which is found broken later
    assert found(tmp_path) == [("a.png", None), ("b.jpg", None), ("c.jpg", None)]


def test_images_beside_folders_are_ambiguous(tmp_path: Path) -> None:
    tree(tmp_path, "a.jpg", "cats/b.jpg")
    with pytest.raises(UsageError, match=r"a\.jpg.*beside folders"):
        open_images(tmp_path, THREE, SUFFIXES)
    assert found(tmp_path, labels=NO_LABELS) == [("a.jpg", None), ("cats/b.jpg", None)]


def test_folders_that_all_link_to_each_other_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / str(index) for index in range(12)]
    for folder in folders:
        folder.mkdir()
        (folder / "x.png").touch()
        for other in folders:
            (folder / f"to{other.name}").symlink_to(other)
    with pytest.raises(UsageError, match="link to each other"):
        found(tmp_path, labels=NO_LABELS)


def test_a_link_back_ends(tmp_path: Path) -> None:
    tree(tmp_path, "cats/a.jpg")
    (tmp_path / "cats" / "again").symlink_to(tmp_path)
    assert found(tmp_path, Classes(1)) == [("cats/a.jpg", 0)]


def test_a_file_of_labels(tmp_path: Path) -> None:
    tree(tmp_path, "a.jpg", "deep/b.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text('\ufefflabel, file,other\n2,deep/b.jpg,x\n0,"a.jpg"\n1,gone.jpg,\n')
    wanted = [("deep/b.jpg", 2), ("a.jpg", 0), ("gone.jpg", 1)]
    assert found(tmp_path, labels=labels) == wanted
    labels.write_text("file,label\ndeep/b.jpg,cat\na.jpg,dog\n")
    known = Classes(3, ("dog", "cow", "cat"))
    assert found(tmp_path, known, labels=labels) == [("deep/b.jpg", 2), ("a.jpg", 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.jpg,1\n", "no column file and no column label"),
        ("", "no column file"),
        ("file,label\n", "lists no images"),
        ("file,label\na.jpg\n", "line 2: a file and a label"),
        ("file,label\na.jpg,9\n", "do not say which"),
        ("file,label\n\udcff,1\n", "UTF-8"),
    ],
)
def test_a_wrong_file_of_labels_is_named(tmp_path: Path, text: str, said: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=said):
        open_images(tmp_path, THREE, SUFFIXES, labels=labels)
    with pytest.raises(UsageError, match="cannot read the labels"):
        open_images(tmp_path, THREE, SUFFIXES, labels=tmp_path / "gone.csv")


def test_a_sample_is_seeded_and_keeps_the_order(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{one:03}.jpg" for one in range(100)))
    sample = found(tmp_path, limit=10, seed=3)
    wanted = sorted(random.Random(3).sample(range(100), 10))
    assert [file for file, _ in sample] == [f"{one:03}.jpg" for one in wanted]
    assert found(tmp_path, limit=10, seed=4) != sample
    images = open_images(tmp_path, THREE, SUFFIXES, limit=1000)
    assert (images.chosen, images.seed) == (100, None)
    with pytest.raises(UsageError, match="--limit 0"):
        open_images(tmp_path, THREE, SUFFIXES, limit=0)


def test_the_fingerprint_knows_names_labels_sizes_and_times(tmp_path: Path) -> None:
    tree(tmp_path, "0/a.jpg", "1/b.jpg")

    def fingerprint(classes: Classes = THREE, **options: object) -> str:
        return open_images(tmp_path, classes, SUFFIXES, **options).fingerprint

    seen = {fingerprint(), fingerprint(labels=NO_LABELS)}
    assert fingerprint() in seen
    os.utime(tmp_path / "0" / "a.jpg", ns=(1, 1))
    seen.add(fingerprint())
    (tmp_path / "1" / "b.jpg").rename(tmp_path / "1" / "c.jpg")
    seen.add(fingerprint())
    assert len(seen) == 4


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        open_images(tmp_path, THREE, SUFFIXES)
    with pytest.raises(UsageError, match="no such folder"):
        open_images(tmp_path / "gone", THREE, SUFFIXES)


def test_names_that_are_no_text_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    tree(tmp_path, name)
    assert found(tmp_path) == [(name, None)]
