"""State dicts of torch are read without torch, and nothing in them runs."""

import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.errors import ModelError
from mbv3c.graphs.weights.files import read_tensors, weights_of
from tests.graphs.weights.state_dicts import (
    HEAD,
    NEW_DICT,
    number,
    numbers,
    program,
    save_torch,
    tensor,
    text,
    write_torch,
)

SIX = np.arange(6, dtype=np.float32)


def read(path: Path) -> dict[str, np.ndarray]:
    return read_tensors(path, weights_of)


def one(folder: Path, pushed: bytes, data: bytes, byteorder: str = "little") -> np.ndarray:
    path = write_torch(folder / "w.pt", program(w=pushed), {"0": data}, byteorder)
    return read(path)["w"]


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("FloatStorage", "f4"),
        ("DoubleStorage", "f8"),
        ("HalfStorage", "f2"),
        ("LongStorage", "i8"),
        ("IntStorage", "i4"),
        ("ShortStorage", "i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
    ],
)
def test_storages(tmp_path: Path, storage: str, dtype: str, byteorder: str) -> None:
    data = SIX.astype(("<" if byteorder == "little" else ">") + dtype).tobytes()
    read = one(tmp_path, tensor("0", 6, (2, 3), (3, 1), storage=storage), data, byteorder)
    assert read.dtype.newbyteorder("=") == np.dtype(dtype)
    np.testing.assert_array_equal(read, SIX.reshape(2, 3))


def test_bfloat16(tmp_path: Path) -> None:
    data = struct.pack("<3H", 0x3F80, 0xC000, 0x3EAB)
    read = one(tmp_path, tensor("0", 3, (3,), (1,), storage="BFloat16Storage"), data)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.float32([1, -2, 0.333984375]))


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "values"),
    [
        ((3, 2), (1, 3), 0, [[0, 3], [1, 4], [2, 5]]),  # transposed
        ((2, 2), (3, 1), 1, [[1, 2], [4, 5]]),  # a part
        ((2,), (2,), 1, [1, 3]),
        ((), (), 5, 5),
        ((0, 3), (3, 1), 0, np.zeros((0, 3))),
        ((1, 6), (100, 1), 0, [[0, 1, 2, 3, 4, 5]]),  # the stride of a single row is never taken
    ],
)
def test_views_of_a_storage(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, values: object
) -> None:
    read = one(tmp_path, tensor("0", 6, shape, strides, offset=offset), SIX.tobytes())
    assert read.shape == shape
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("count", "shape", "strides", "offset"),
    [
        (6, (7,), (1,), 0),
        (6, (2, 3), (4, 1), 0),
        (6, (2, 3), (3, 1), 1),
        (6, (), (), 6),
        (6, (-1,), (1,), 0),
        (6, (6,), (-1,), 5),
        (6, (2,), (1,), -1),
        (6, (2, 3), (3,), 0),
        (6, (2_000_000_000, 2_000_000_000), (0, 0), 0),
        (6, (1,) * 9, (1,) * 9, 0),
        (7, (6,), (1,), 0),
        (2_000_000_000, (6,), (1,), 0),
        (-1, (6,), (1,), 0),
        (3, (6,), (1,), 0),  # the storage has them, but its count says otherwise
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage(
    tmp_path: Path, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    with pytest.raises(ModelError, match=r"is damaged, or no state dict"):
        one(tmp_path, tensor("0", count, shape, strides, offset=offset), SIX.tobytes())


@pytest.mark.parametrize("key", [(1 << 61) - 1, -1, 1 << 40])
def test_numbers_that_may_collide_are_no_keys(tmp_path: Path, key: int) -> None:
    """A dict of 20,000 such numbers would take a minute."""
    pickled = pickle.dumps({key * place: None for place in range(1, 20_000)}, protocol=2)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
    with pytest.raises(ModelError, match="no dict of names"):
        read_tensors(tmp_path / "x.pt", weights_of)


def test_a_tensor_is_no_storage(tmp_path: Path) -> None:
    """Its last element, repeated, would pass for six numbers that lie side by side."""
    repeated = tensor("0", 6, (6,), (0,), offset=5)
    arguments = number(0) + numbers([6]) + numbers([1]) + b"\x89" + NEW_DICT
    again = b"ctorch._utils\n_rebuild_tensor_v2\n(" + repeated + arguments + b"tR"
    np.testing.assert_array_equal(one(tmp_path, repeated, SIX.tobytes()), [5] * 6)
    with pytest.raises(ModelError, match="without a proper storage"):
        one(tmp_path, again, SIX.tobytes())


def test_a_storage_that_two_tensors_share(tmp_path: Path) -> None:
    pushed = program(a=tensor("0", 6, (3,), (1,)), b=tensor("0", 6, (3,), (1,), offset=3))
    read_back = read(write_torch(tmp_path / "w.pt", pushed, {"0": SIX.tobytes()}))
    np.testing.assert_array_equal(read_back["a"], [0, 1, 2])
    np.testing.assert_array_equal(read_back["b"], [3, 4, 5])


def test_a_storage_that_is_missing(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "w.pt", program(w=tensor("1", 6, (6,), (1,))), {"0": b""})
    with pytest.raises(ModelError, match="the storage '1' is missing"):
        read(path)


def test_parameters_metadata_and_other_values(tmp_path: Path) -> None:
    w = tensor("0", 6, (6,), (1,))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + w + b"\x88" + NEW_DICT + b"tR"
    metadata = b"}" + text("_metadata") + NEW_DICT + b"sb"
    items = text("w") + w + text("p") + parameter + text("epoch") + number(3)
    path = write_torch(
        tmp_path / "w.pt",
        HEAD + NEW_DICT + b"(" + items + b"u" + metadata + b".",
        {"0": SIX.tobytes()},
    )
    found = read(path)
    assert found.keys() == {"w", "p"}
    np.testing.assert_array_equal(found["p"], SIX)


def inner(name: str) -> bytes:
    """Push an entry that is a state dict of one tensor."""
    return text(name) + NEW_DICT + text("w") + tensor("0", 6, (6,), (1,)) + b"s"


def test_a_checkpoint_with_one_state_dict(tmp_path: Path) -> None:
    optimizer = text("optimizer") + b"}" + text("lr") + b"G" + struct.pack(">d", 0.1) + b"s"
    pickled = HEAD + b"}(" + inner("state_dict") + optimizer + b"u."
    found = read(write_torch(tmp_path / "w.pt", pickled, {"0": SIX.tobytes()}))
    assert found.keys() == {"w"}


def test_a_checkpoint_with_several(tmp_path: Path) -> None:
    pickled = HEAD + b"}(" + inner("model") + inner("model_ema") + b"u."
    path = write_torch(tmp_path / "w.pt", pickled, {"0": SIX.tobytes()})
    with pytest.raises(ModelError, match=r"several state dicts \('model', 'model_ema'\)"):
        read(path)


@pytest.mark.parametrize("pickled", [HEAD + b"}.", HEAD + b"K\x01.", program(w=number(1))])
def test_no_tensors(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(ModelError, match=r"holds no state dict; save model\.state_dict\(\)"):
        read(write_torch(tmp_path / "w.pt", pickled, {}))


def mischief(folder: Path) -> tuple[Path, bytes]:
    """Return a file that comes into being when what is pushed is run, and the command."""
    marker = folder / "it ran"
    return marker, text(f"touch '{marker}'")


def test_a_program_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    marker, command = mischief(tmp_path)
    pickled = b"\x80\x02cos\nsystem\n(" + command + b"tR."
    pickle.loads(pickled)
    assert marker.exists()  # the program is one
    marker.unlink()
    with pytest.raises(ModelError, match=r"asks for 'os\.system', .* nothing was run"):
        read(write_torch(tmp_path / "w.pt", pickled, {}))
    assert not marker.exists()


CALLS = {
    "another function": b"csubprocess\ngetoutput\n(%sK\x00tR",
    "the stack's name for it": text("os") + text("system") + b"\x93(%stR",
    "a built-in function": b"c__builtin__\neval\n(%stR",
    "INST": b"(%sios\nsystem\n",
    "OBJ": b"(cos\nsystem\n%so",
    "NEWOBJ": b"cos\nsystem\n(%st\x81",
    "an extension code": b"\x82\x01(%stR",
    "a name with a dot": text("torch._utils") + text("os.system") + b"\x93(%stR",
    "a loader of torch": b"ctorch.storage\n_load_from_bytes\n(%stR",
    "torch.load itself": b"ctorch\nload\n(%stR",
    "the class of a class": NEW_DICT + b"cbuiltins\ngetattr\n(%stR",
    "state with a setter": b"cargparse\nNamespace\n)\x81}" + text("a") + b"%ssb",
    "a call of what is allowed": b"ctorch._utils\n_rebuild_tensor_v2\n(%stR",
    "a call of a storage": b"ctorch\nFloatStorage\n(%stR",
    "an argument of OrderedDict": b"ccollections\nOrderedDict\n(%stR",
    "state of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("a") + b"%ssb",
    "a key that is no name": b"}(%sl%ss",
    "a reference by text": b"P0\n",
    "a reference to no storage": b"(%sK\x00K\x00K\x00K\x00tQ",
    "a storage of no type": b"(" + text("storage") + b"%s" * 4 + b"tQ",
    "names that are no text": b"]]\x93",
    "a buffer from outside": b"\x97",
}


@pytest.mark.parametrize("how", CALLS)
def test_nothing_is_called(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(os, "system", never)
    monkeypatch.setattr(subprocess, "getoutput", never)
    marker, command = mischief(tmp_path)
    bad = CALLS[how].replace(b"%s", command)
    for pickled in (HEAD + bad + b".", program(a=tensor("0", 6, (6,), (1,)), b=bad)):
        path = write_torch(tmp_path / "w.pt", pickled, {"0": SIX.tobytes()})
        with pytest.raises(ModelError):
            read(path)
    assert not marker.exists()


def test_two_pickles(tmp_path: Path) -> None:
    path = save_torch(tmp_path / "w.pt", {"w": SIX})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", HEAD + b"}.")
    with pytest.raises(ModelError, match=r"holds 2 files data\.pkl"):
        read(path)


@pytest.mark.parametrize(
    "old",
    [
        pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2),  # what torch wrote first until 1.5
        pickle.dumps({"w": 1}, protocol=4),
    ],
)
def test_a_pickle_without_an_archive(tmp_path: Path, old: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(old)
    with pytest.raises(ModelError, match=r"convert it: torch\.save\(torch\.load\("):
        read(tmp_path / "w.pth")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    pickled = program(w=tensor("0", 6, (2, 3), (3, 1)))
    for end in range(len(pickled)):
        with pytest.raises(ModelError):
            read(write_torch(tmp_path / "w.pt", pickled[:end], {"0": SIX.tobytes()}))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever changes, it is a ModelError or a tensor of the bytes that are there."""
    pickled = bytearray(program(w=tensor("0", 6, (2, 3), (3, 1)), v=numbers((1, 2))))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(pickled) - 1))
        pickled[where] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    write_torch(path, bytes(pickled), {"0": SIX.tobytes()})
    try:
        found = read(path)
    except ModelError:
        return
    for array in found.values():
        assert array.size <= SIX.nbytes
        assert np.array(array).shape == array.shape
