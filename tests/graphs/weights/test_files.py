"""Files of tensors: known by content, and refused when damaged."""

import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import save

from mbv3c.errors import Mbv3cError, ModelError
from mbv3c.graphs.weights import files as weight_files
from mbv3c.graphs.weights.files import read_tensors, weights_of, write_npz, write_safetensors
from tests.graphs.weights.state_dicts import program, tensor, write_torch

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.c": np.float64([0.1, 0.2]),
    "d": np.array(7, np.int64),
}


def read(path: Path) -> dict[str, np.ndarray]:
    return read_tensors(path, weights_of)


def npz(**entries: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def npy_with_header(header: str, data: bytes = b"") -> bytes:
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data


def safetensors_with_header(header: object, data: bytes = b"") -> bytes:
    line = json.dumps(header).encode()
    return len(line).to_bytes(8, "little") + line + data


def model() -> bytes:
    graph = onnx.parser.parse_graph("g (float[2, 3] x) => (float[2, 3] y) { y = MatMul(x, w) }")
    graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    built: bytes = onnx.helper.make_model(graph).SerializeToString()
    return built


def torch_file(folder: Path) -> bytes:
    pickled = program(w=tensor("0", 6, (2, 3), (3, 1)))
    return write_torch(folder / "sample.pt", pickled, {"0": bytes(24)}).read_bytes()


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        assert array.dtype == wanted[name].dtype
        assert array.shape == wanted[name].shape
        np.testing.assert_array_equal(array, wanted[name])


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **TENSORS)
    same(read(tmp_path / "w.npz"), TENSORS)


def test_npz_compressed_in_fortran_order_and_of_the_other_byte_order(tmp_path: Path) -> None:
    turned = {"a": np.asfortranarray(TENSORS["a"]), "b": TENSORS["a"].astype(">f4")}
    np.savez_compressed(tmp_path / "w.npz", **turned)
    same(read(tmp_path / "w.npz"), turned)


def test_safetensors(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(save(TENSORS, metadata={"format": "np"}))
    same(read(tmp_path / "w"), TENSORS)


def test_what_is_written_is_what_others_read(tmp_path: Path) -> None:
    write_npz(tmp_path / "w.npz", TENSORS)
    with np.load(tmp_path / "w.npz") as loaded:
        same(dict(loaded), TENSORS)
    arrays = {name: array for name, array in TENSORS.items() if array.ndim}
    write_safetensors(tmp_path / "w", arrays)
    assert (tmp_path / "w").read_bytes() == save(arrays)


REFUSED = {
    "empty": (b"", "neither safetensors"),
    "text": (b"these are my weights\n" * 20, "neither safetensors"),
    "zeros": (bytes(400), "neither safetensors"),
    "a single array": (npy(TENSORS["a"]), "neither safetensors"),
    "a header that is no JSON": (b"\x09" + bytes(7) + b"{weights}", "damaged safetensors"),
    "tensors beyond the end": (save(TENSORS)[:-1], "damaged safetensors"),
    "more than the tensors": (save(TENSORS) + b"\0", "damaged safetensors"),
    "a header that is cut": (save(TENSORS)[:40], "damaged safetensors"),
    "a header without an end": (b"\xff\xff\xff\x7f\0\0\0\0{", "damaged safetensors"),
    "an 8-bit float": (
        safetensors_with_header(
            {"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"\0\0"
        ),
        "'w' is F8_E4M3, which mbv3c does not read",
    ),
    "a shape that overflows": (
        safetensors_with_header(
            {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, bytes(4)
        ),
        "damaged safetensors",
    ),
    "a zip that is cut": (npz(a=npy(TENSORS["a"]))[:-30], "damaged zip archive, or cut short"),
    "a zip of something else": (b"PK\x05\x06" + bytes(18), "neither a .npz nor"),
    "Python objects": (
        npz(a=npy(np.array([{}]), pickled=True)),
        "'a.npy' is damaged: it holds object",
    ),
    "text in an array": (npz(a=npy(np.array(["x"]))), "'a.npy' is damaged: it holds <U1"),
    "no array": (npz(a=b"weights"), "the entry 'a.npy' is damaged"),
    "an array of version 9": (npz(a=b"\x93NUMPY\x09\x00" + bytes(9)), "'a.npy' is damaged"),
    "an array that is cut": (npz(a=npy(TENSORS["a"])[:-1]), "'a.npy' is damaged"),
    "a header of no array": (npz(a=npy_with_header("[1, 2]")), "'a.npy' is damaged"),
    "a header that calls": (npz(a=npy_with_header("exit(1)")), "'a.npy' is damaged"),
    "a deep header": (npz(a=npy_with_header("(" * 900)), "'a.npy' is damaged"),
    "a very deep header": (npz(a=npy_with_header("-" * 9000 + "1")), "'a.npy' is damaged"),
    "a huge array": (
        npz(
            a=npy_with_header(
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}", bytes(8)
            )
        ),
        "'a.npy' is damaged",
    ),
    "a model that is cut": (model()[:-20], "neither safetensors"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_reason(tmp_path: Path, what: str) -> None:
    data, reason = REFUSED[what]
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in (1.0, 2.0):
            archive.writestr("a.npy", npy(np.array(value)))
    with pytest.raises(ModelError, match="two entries of one name"):
        read(tmp_path / "w.npz")


def test_a_rare_compression(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", npy(TENSORS["a"]))
    with pytest.raises(ModelError, match="compressed by a rare method"):
        read(tmp_path / "w.npz")


def test_sizes_are_bounded_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "_LARGEST", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 20, np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 14
    with pytest.raises(ModelError, match="unpacks to more than 1 MiB"):
        read(tmp_path / "bomb.npz")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ModelError, match="and 1 are the most"):
        read(tmp_path / "large")


@pytest.mark.parametrize("kind", ["safetensors", "npz", "onnx", "torch"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    """Bytes that change and files that end early: a reason or tensors, never a traceback."""
    folder = tmp_path_factory.getbasetemp()
    damaged = bytearray(
        {
            "safetensors": lambda: save(TENSORS),
            "npz": lambda: npz(a=npy(TENSORS["a"])),
            "onnx": model,
            "torch": lambda: torch_file(folder),
        }[kind]()
    )
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)) | st.none())])
    try:
        found = read(path)
    except Mbv3cError:
        return
    for array in found.values():
        assert isinstance(array, np.ndarray)
