"""Outputs in a file: read back as they were, and what is no such file is refused."""

import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbv3c.errors import SavedFileError, UsageError
from mbv3c.parity.gate.saved_outputs import Saved, load_outputs, save_outputs
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.parity.verdict import Pair

ORIGIN = {
    "bundle": "a",
    "bundle_sha256": "0" * 64,
    "target": "host_cpu:native",
    "precision": "int8",
    "ran_on": "this machine",
    "exact_program": True,
    "versions": {"mbv3c": "0"},
    "own_inputs": None,
}
SCORES = np.array([[1.0, np.nan, -np.inf]], np.float32)
BOXES = np.arange(8, dtype=np.float32).reshape(1, 2, 4)


def saved(spread: float = 0.5) -> Saved:
    pairs = tuple(
        (
            Pair(
                SCORES + i,
                ReferenceOutput("a/b scores", SCORES, spread, 1, 0.25, np.array(3.0), 2e-2),
            ),
            Pair(BOXES, ReferenceOutput("boxes", BOXES + i, 0.0, None)),
        )
        for i in range(3)
    )
    return Saved(ORIGIN, TOLERANCES["int8"], pairs)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_outputs(tmp_path / "outputs.npz", saved())
    return tmp_path / "outputs.npz"


@pytest.mark.parametrize("spread", [0.5, math.inf])
def test_is_read_back(tmp_path: Path, spread: float) -> None:
    save_outputs(tmp_path / "o.npz", saved(spread))
    found = load_outputs(tmp_path / "o.npz")
    assert (found.origin, found.standing) == (ORIGIN, TOLERANCES["int8"])
    for ours, theirs in zip(found.pairs, saved(spread).pairs, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.ours, other.ours)
            np.testing.assert_array_equal(one.reference.output, other.reference.output)
            for name in ("name", "spread", "class_axis", "step"):
                assert getattr(one.reference, name) == getattr(other.reference, name)


def test_numpy_reads_it_without_pickle_and_it_is_the_same_each_time(file: Path) -> None:
    before = file.read_bytes()
    with np.load(file, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        assert header["outputs"][0] == {"name": "a/b scores", "class_axis": 1}
        np.testing.assert_array_equal(archive["bundle.2.0"], SCORES + 2)
    save_outputs(file, saved())  # over what is there
    assert file.read_bytes() == before


def test_without_standing_rules(tmp_path: Path) -> None:
    save_outputs(tmp_path / "o.npz", Saved(ORIGIN, None, saved().pairs))
    assert load_outputs(tmp_path / "o.npz").standing is None


def test_another_ending(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.npz"):
        save_outputs(tmp_path / "outputs.npy", saved())


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*--save-outputs"):
        load_outputs(tmp_path / "none.npz")


@pytest.mark.parametrize("keep", [0, 1, 100, 1000, -1, -30])
def test_a_torn_file(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SavedFileError, match="is damaged, or no file of"):
        load_outputs(file)


def test_one_flipped_bit_of_a_value(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index((BOXES + 2).tobytes()) + 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(SavedFileError, match="is damaged"):
        load_outputs(file)


def test_other_files(file: Path) -> None:
    np.savez(file, weights=BOXES)
    with pytest.raises(SavedFileError, match=r"is another \.npz file than"):
        load_outputs(file)
    np.save(file.with_suffix(".npy"), BOXES)
    with pytest.raises(SavedFileError, match="is damaged, or no file of"):
        load_outputs(file.with_suffix(".npy"))
    file.write_text("{}")
    with pytest.raises(SavedFileError, match="is damaged, or no file of"):
        load_outputs(file)


def change(header: dict, key: str, value: object) -> None:
    header[key] = value


@pytest.mark.parametrize(
    "damage",
    [
        lambda header: change(header, "outputs", header["outputs"][:1]),
        lambda header: change(header, "outputs", None),
        lambda header: change(header, "inputs", [*header["inputs"], header["inputs"][0]]),
        lambda header: change(header, "inputs", []),
        lambda header: change(header, "inputs", [[], [], []]),
        lambda header: change(header, "standing", {"of": 1}),
        lambda header: change(header["outputs"][0], "class_axis", 2),
        lambda header: change(header["outputs"][0], "class_axis", "C"),
        lambda header: change(header["inputs"][0][0], "step", "x"),
        lambda header: header.pop("ran_on"),
    ],
)
def test_a_header_that_does_not_fit(file: Path, damage: Callable[[dict], object]) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    damage(header)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(file, **arrays)
    with pytest.raises(SavedFileError, match="write it again"):
        load_outputs(file)


def test_another_schema(file: Path) -> None:
    header = json.dumps({"format": "mbv3c outputs", "schema": 99}).encode()
    np.savez(file, header=np.frombuffer(header, np.uint8))
    with pytest.raises(SavedFileError, match="has schema 99, and this version reads 4"):
        load_outputs(file)


def test_nothing_is_unpickled(file: Path) -> None:
    """An array of objects would run code when it is read."""
    with np.load(file) as archive:
        arrays = dict(archive)
    content = io.BytesIO()
    np.save(content, np.array([print], object), allow_pickle=True)
    np.savez(file, **{key: value for key, value in arrays.items() if key != "bundle.0.0"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("bundle.0.0.npy", content.getvalue())
    with pytest.raises(SavedFileError, match="is damaged"):
        load_outputs(file)


def test_integers_are_no_outputs(file: Path) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **(arrays | {"bundle.0.0": SCORES.view(np.int32)}))
    with pytest.raises(SavedFileError, match=r"output 0\.0 is of int32"):
        load_outputs(file)
