"""Files are found in a folder and in its folders, and drawn evenly."""

from collections import Counter
from pathlib import Path

import pytest

from mbv3c.errors import UsageError
from mbv3c.quantization.calibration_files import EVERY, MOST_OF_CLASSES, Sampling, find_files


def folder(tmp_path: Path, **files: int) -> Path:
    """Return a folder with empty files in folders; those of `loose` lie beside these."""
    for name, count in files.items():
        place = tmp_path if name == "loose" else tmp_path / name / "deeper"
        place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (place / f"{index:03}.png").touch()
    return tmp_path


def tops(files: tuple[Path, ...], root: Path) -> list[str]:
    return [path.relative_to(root).parts[0] for path in files]


def test_folders_give_a_file_each_in_turn(tmp_path: Path) -> None:
    root = folder(tmp_path, cat=30, dog=4, owl=30)
    found = find_files(root, Sampling(18))
    assert Counter(tops(found.files, root)) == {"cat": 7, "dog": 4, "owl": 7}
    assert len(set(tops(found.files[:3], root))) == 3
    assert len(set(found.files)) == 18
    assert found == find_files(root, Sampling(18))
    assert found.files != find_files(root, Sampling(18, seed=1)).files
    said = found.source(18, Path("photos"))
    assert said == "18 inputs in 18 files (of 64, seed 0) of photos, evenly from its 3 folders"


def test_all_files_of_a_folder_without_folders(tmp_path: Path) -> None:
    root = folder(tmp_path, loose=5)
    (root / ".hidden.png").touch()
    found = find_files(root)
    assert [path.name for path in found.files] == [f"{index:03}.png" for index in range(5)]
    assert found.source(5, Path("photos")) == "5 inputs in 5 files of photos"
    assert len(find_files(root, Sampling(2)).files) == 2


def test_large_sets_are_cut(tmp_path: Path) -> None:
    root = folder(tmp_path, cat=MOST_OF_CLASSES, dog=1, loose=1)
    found = find_files(root)
    assert len(found.files) == MOST_OF_CLASSES
    assert {"cat", "dog"} < set(tops(found.files, root))
    assert len(find_files(root, EVERY).files) == MOST_OF_CLASSES + 2


@pytest.mark.parametrize(
    ("limit", "seed", "words"),
    [(0, 0, "--calibration-limit 0 leaves nothing"), (1, -1, "--calibration-seed must not be")],
)
def test_impossible_samples(limit: int, seed: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(limit, seed)
