"""The user's own inputs: which files are taken, in which order, and what is said of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c.errors import CalibrationError, UsageError
from mbv3c.quantization.images import Overrides
from mbv3c.quantization.own_inputs import MOST, InputsRequest, read_inputs
from tests.quantization import quantizing


def model(batch: int = 1, kind: str = "float") -> onnx.ModelProto:
    shape = f"{kind}[{batch}, 3, 4, 6]"
    return quantizing.graph(f"g ({shape} x) => ({shape} y) {{ y = Identity(x) }}")


def full(value: float, *batch: int) -> np.ndarray:
    return np.full((*batch, 3, 4, 6), value, np.float32)


def first(arrays: list[np.ndarray]) -> list[float]:
    return [float(x.ravel()[0]) for x in arrays]


def test_arrays_and_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.concatenate([full(1.0, 1), full(2.0, 1)]))
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "b.png")
    np.savez(tmp_path / "c.npz", x=full(3.0))
    (tmp_path / "notes.txt").write_text("not read")
    overrides = Overrides(scale=1.0, bgr=True)
    found = read_inputs(model(), InputsRequest(tmp_path, overrides))
    assert found.files == ("a.npy", "a.npy", "b.png", "c.npz")
    assert first(found.feeds) == [1.0, 2.0, 0.0, 3.0]
    assert found.feeds[2][0, :, 0, 0].tolist() == [0.0, 0.0, 255.0]
    assert all(x.shape == (1, 3, 4, 6) and x.dtype == np.float32 for x in found.feeds)
    assert found.source.startswith(f"4 inputs of {tmp_path}; images: middle 0.875 of it, pixels")
    assert found.preprocessing is not None
    assert found.preprocessing["channels"] == "BGR"
    assert found.preprocessing["from"]["scale"] == "--scale"


def test_one_file_and_a_limit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.concatenate([full(float(i), 1) for i in range(5)]))
    (tmp_path / "b.npy").write_bytes(b"broken, and not reached")
    found = read_inputs(model(), InputsRequest(tmp_path, limit=3))
    assert first(found.feeds) == [0.0, 1.0, 2.0]
    assert found.source == f"the first 3 inputs of {tmp_path}"
    assert found.preprocessing is None
    alone = read_inputs(model(), InputsRequest(tmp_path / "a.npy"))
    assert alone.source == f"5 inputs of {tmp_path / 'a.npy'}"
    assert alone.sha256 != found.sha256
    with pytest.raises(UsageError, match="--limit 0"):
        read_inputs(model(), InputsRequest(tmp_path, limit=0))


def test_without_a_limit_there_is_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((MOST + 1, 3, 4, 6), np.float32))
    found = read_inputs(model(), InputsRequest(tmp_path))
    assert len(found.feeds) == MOST
    assert found.source.startswith(f"the first {MOST} inputs")


def test_batches_are_filled_up(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", full(float(index)))
    found = read_inputs(model(batch=2), InputsRequest(tmp_path))
    assert found.files == ("0.npy, 1.npy", "2.npy")
    assert [x[:, 0, 0, 0].tolist() for x in found.feeds] == [[0.0, 1.0], [2.0, 2.0]]


def test_inputs_have_the_type_of_the_models_input(tmp_path: Path) -> None:
    pixels = np.full((1, 3, 4, 6), 7, np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    Image.new("RGB", (6, 4), (255, 128, 1)).save(tmp_path / "b.png")
    array, image = read_inputs(model(kind="uint8"), InputsRequest(tmp_path)).feeds
    assert array.dtype == image.dtype == np.uint8
    assert (array == pixels).all()
    assert image[0, :, 0, 0].tolist() == [255, 128, 1]  # a model of bytes takes pixels
    with pytest.raises(CalibrationError, match=r"a\.npy holds uint8, the model takes float32"):
        read_inputs(model(), InputsRequest(tmp_path))


def test_a_model_with_several_inputs_takes_a_file_for_each_set(tmp_path: Path) -> None:
    several = quantizing.graph(
        "g (float[1, 3] x, uint8[1, 2] n) => (float[1, 3] y, uint8[1, 2] m) "
        "{ y = Identity(x) m = Identity(n) }"
    )
    for name in ("a.npz", "b.npz"):
        arrays = {"x": np.ones((1, 3), np.float32), "n": np.full((1, 2), 7, np.uint8)}
        np.savez(tmp_path / name, **arrays)
    found = read_inputs(several, InputsRequest(tmp_path))
    assert found.files == ("a.npz", "b.npz")
    assert [[array.dtype for array in feed] for feed in found.feeds] == [
        [np.float32, np.uint8]
    ] * 2
    assert len(found.sha256) == 64
    np.save(tmp_path / "c.npy", np.ones((1, 3), np.float32))
    assert len(read_inputs(several, InputsRequest(tmp_path, limit=2)).feeds) == 2
    with pytest.raises(CalibrationError, match=r"c\.npy: the model has 2 inputs"):
        read_inputs(several, InputsRequest(tmp_path))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_inputs(model(), InputsRequest(tmp_path / "gone"))
    np.save(tmp_path / "a.npy", np.zeros((0, 3, 4, 6), np.float32))
    with pytest.raises(UsageError, match="hold no inputs"):
        read_inputs(model(), InputsRequest(tmp_path))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match=r"b\.png is no image"):
        read_inputs(model(), InputsRequest(tmp_path))
