"""Arrays whose headers or archives lie."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mbv3c.door.arrays import map_array, open_arrays, read_array
from mbv3c.door.files import Refused

NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def npy(array: np.ndarray, shape: str = "") -> bytes:
    """Return an .npy file, whose header may say another shape."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    data = file.getvalue()
    if not shape:
        return data
    given = str(array.shape).encode()
    spaces = b" " * (len(given) - len(shape))
    return data.replace(given, shape.encode() + spaces)


@pytest.mark.parametrize(
    "array",
    [NUMBERS, np.asfortranarray(NUMBERS), NUMBERS[:0], np.float64(3), NUMBERS.astype(">i2")],
)
def test_arrays_come_as_they_are(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", one=array, two=array)
    for read in (read_array, map_array):
        loaded = read(tmp_path / "x.npy")
        assert loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array)
    with open_arrays(tmp_path / "x.npz") as archive:
        assert list(archive) == ["one", "two"]
        np.testing.assert_array_equal(archive["two"], array)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(NUMBERS)[:-1], "asks for 96 bytes, and 95 are there"),
        (npy(NUMBERS, "(2**62,)"), "damaged"),
        (npy(np.zeros(4), "(9,)"), "asks for 72 bytes"),
        (npy(np.zeros((10, 10)), "(-1, 100)"), "is none"),
        (npy(np.zeros((10, 10)), "(9**9,)"), "damaged"),
        (npy(np.array([{}])), "holds object"),
        (npy(np.zeros(2, [("a", "f4")])), "not numbers"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "damaged"),
        (b"", "damaged"),
    ],
)
def test_headers_that_lie(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    (tmp_path / "x.npz").write_bytes(archive(x=data))
    for read in (read_array, map_array):
        with pytest.raises(Refused, match=reason):
            read(tmp_path / "x.npy")
    with pytest.raises(Refused, match=reason), open_arrays(tmp_path / "x.npz") as opened:
        opened["x"]


def archive(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in entries.items():
            opened.writestr(f"{name}.npy", data)
    return file.getvalue()


def with_size(data: bytes, size: int) -> bytes:
    """Return an archive of one entry that says another size of it."""
    head, entry = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    changed = bytearray(data)
    struct.pack_into("<L", changed, head + 22, size)
    struct.pack_into("<L", changed, entry + 24, size)
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_size(archive(x=npy(np.zeros(1 << 20))), 200), "damaged"),
        (archive(x=npy(NUMBERS))[:-30], "damaged zip archive"),
        (b"PK", "damaged zip archive"),
        (b"PK\x05\x06" + bytes(8) + b"\xff\xff\xff\x7f" + bytes(6), "list of entries is too long"),
        (
            archive(x=npy(NUMBERS)).replace(
                b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
            ),
            "encrypted",
        ),
    ],
)
def test_archives_that_lie(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(Refused, match=reason), open_arrays(tmp_path / "x.npz") as opened:
        opened["x"]


def test_an_archive_may_have_a_comment(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as opened:
        opened.writestr("x.npy", npy(NUMBERS))
        opened.comment = b"made by hand PK\x05"
    with open_arrays(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["x"], NUMBERS)
