"""What a model takes for one inference."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mbv3c.feeds import (
    arrays_of,
    as_feed,
    load_feed,
    numbered_files,
    only_array,
    save_feed,
    save_raw,
)

X, Z = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 0], np.uint8)


def test_one_array_is_a_feed_itself() -> None:
    assert as_feed([X]) is X
    assert arrays_of(X) == (X,)
    assert only_array(X) is X


def test_several_arrays_are_a_tuple() -> None:
    feed = as_feed([X, Z])
    assert arrays_of(feed) == (X, Z)
    with pytest.raises(ValueError, match="too many values"):
        only_array(feed)


def test_files_are_numbered_as_those_of_outputs() -> None:
    names = [file.name for file in islice(numbered_files(Path("in.npy")), 3)]
    assert names == ["in.npy", "in.1.npy", "in.2.npy"]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_feed(tmp_path / "x.npy", X.T)
    loaded = load_feed(tmp_path / "x.npy")
    assert isinstance(loaded, np.ndarray)
    np.testing.assert_array_equal(loaded, X.T)
    assert loaded.flags.c_contiguous
    save_feed(tmp_path / "y.npy", (X, Z))
    several = arrays_of(load_feed(tmp_path / "y.npy"))
    assert [array.dtype for array in several] == [np.float32, np.uint8]


def test_a_full_disk_is_told() -> None:
    save_raw(Path("/dev/null"), X.T)
    with pytest.raises(OSError, match="No space left on device"):
        save_raw(Path("/dev/full"), X)
