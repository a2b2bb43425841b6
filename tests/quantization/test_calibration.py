"""What is calibrated on: files that fit, files that do not, and random inputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c.errors import CalibrationError, Mbv3cError, UsageError
from mbv3c.parity.metrics import cosine
from mbv3c.parity.reference import run, session
from mbv3c.quantization.calibration import (
    Calibration,
    check_source,
    folder_inputs,
    inputs_from,
    random_inputs,
)
from mbv3c.quantization.images import Overrides
from mbv3c.quantization.quantize import quantize
from tests.onnx_text import graph
from tests.quantization import quantizing


def model(batch: int = 1) -> onnx.ModelProto:
    return quantizing.graph(
        f"g (float[{batch}, 3, 4, 6] x) => (float[{batch}, 3, 4, 6] y) {{ y = Relu(x) }}"
    )


def values(calibration: Calibration) -> list[float]:
    """Return the first number of each batch; files here hold one number each."""
    return [float(x.ravel()[0]) for x in calibration.read()]


def full(value: float, *batch: int) -> np.ndarray:
    return np.full((*batch, 3, 4, 6), value, np.float32)


def test_arrays_come_in_the_order_of_names_with_and_without_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", full(2.0))
    np.save(tmp_path / "a.npy", full(1.0, 1))
    np.save(tmp_path / "c.npy", np.concatenate([full(3.0, 1), full(4.0, 1)]))
    np.savez(tmp_path / "d.npz", one=full(5.0, 1), two=full(6.0))
    (tmp_path / "notes.txt").write_text("not read")
    found = folder_inputs(model(), tmp_path)
    assert found.batches == 6
    assert values(found) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert values(found) == values(found)  # again from the beginning
    assert all(x.shape == (1, 3, 4, 6) and x.dtype == np.float32 for x in found.read())
    assert not found.random


def test_samples_fill_batches_across_files(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", full(float(index)))
    found = folder_inputs(model(batch=2), tmp_path)
    assert found.batches == 2
    first, last = found.read()
    assert first[:, 0, 0, 0].tolist() == [0.0, 1.0]
    assert last[:, 0, 0, 0].tolist() == [2.0, 2.0]  # filled up


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x.npy", np.zeros((1, 3, 4, 5), np.float32), r"x.npy .*\(1, 3, 4, 5\).*\(1, 3, 4, 6\)"),
        ("x.npy", np.zeros((), np.float32), r"x.npy has the shape \(\)"),
        ("x.npy", np.zeros((1, 3, 4, 6), np.uint8), "x.npy holds uint8, the model takes float32"),
        ("x.npy", np.zeros((1, 3, 4, 6), np.float64), "x.npy holds float64"),
        ("x.npy", full(np.nan, 1), "x.npy holds NaN or infinity, in input 0"),
        ("x.npy", np.concatenate([full(0, 1), full(-np.inf, 1)]), "NaN or infinity, in input 1"),
        ("x.npz", full(np.inf), "x.npz: arr_0 holds NaN"),
    ],
)
def test_an_array_that_does_not_fit_is_named(
    tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "good.npy", full(1.0))
    (np.savez if name.endswith("z") else np.save)(tmp_path / name, array)
    with pytest.raises(CalibrationError, match=message):
        folder_inputs(model(), tmp_path)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.png", "x.JPG"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=f"{name} is no .*broken"):
        folder_inputs(model(), tmp_path)


def test_images_are_prepared_as_the_user_says(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (255, 128, 0)).save(tmp_path / "x.png")
    overrides = Overrides((127.5,) * 3, (127.5,) * 3, scale=1.0, bgr=True)
    found = folder_inputs(model(), tmp_path, overrides)
    (x,) = found.read()
    assert x[0, :, 0, 0].tolist() == [-1.0, np.float32(0.5 / 127.5), 1.0]
    assert "pixels times 1, mean 127.5 127.5 127.5, std 127.5 127.5 127.5, BGR" in found.source
    assert folder_inputs(model(), tmp_path).source == f"1 inputs in 1 files of {tmp_path}"


def test_a_single_file_will_do(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full(1.0))
    np.save(tmp_path / "b.npy", full(2.0))
    assert values(folder_inputs(model(), tmp_path / "b.npy")) == [2.0]
    (tmp_path / "c.txt").write_text("no array")
    with pytest.raises(UsageError, match=r"c\.txt is none of"):
        folder_inputs(model(), tmp_path / "c.txt")
    with pytest.raises(UsageError, match=r"no such file: .*d\.npy"):
        folder_inputs(model(), tmp_path / "d.npy")


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationError, match=r"x\.npy"):
        folder_inputs(model(), tmp_path)


def test_an_image_that_is_cut_short_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(CalibrationError, match=r"x\.jpg is no image, or it is broken"):
        folder_inputs(model(), tmp_path)


def test_folders_without_anything_to_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        folder_inputs(model(), tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds none of"):
        folder_inputs(model(), tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((0, 3, 4, 6), np.float32))
    with pytest.raises(UsageError, match="hold no inputs"):
        folder_inputs(model(), tmp_path)


@pytest.mark.parametrize(("batches", "held_out"), [(1, 0), (3, 0), (4, 1), (16, 4), (200, 8)])
def test_one_in_four_is_held_out_at_most_eight(batches: int, held_out: int) -> None:
    found = random_inputs(model(), batches)
    used = [x.tobytes() for x in found.calibrating()]
    measured = [x.tobytes() for x in found.evaluating()]
    assert len(found.held_out) == held_out
    assert len(used) == batches - held_out
    if held_out:
        assert len(measured) == held_out
        assert not set(used) & set(measured)
    else:
        assert measured == used


def test_random_inputs_follow_their_seed() -> None:
    first, again = random_inputs(model(), 4, seed=1), random_inputs(model(), 4, seed=1)
    other = random_inputs(model(), 4, seed=2)
    assert first.random
    assert [x.tobytes() for x in first.read()] == [x.tobytes() for x in again.read()]
    assert [x.tobytes() for x in first.read()] != [x.tobytes() for x in other.read()]


@pytest.mark.parametrize(
    ("folder", "count", "seed"),
    [(None, None, None), (Path("x"), 3, None), (Path("x"), None, 1), (None, None, 1)],
)
def test_there_is_exactly_one_source(
    folder: Path | None, count: int | None, seed: int | None
) -> None:
    with pytest.raises(UsageError):
        check_source(folder, count, seed)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_random_inputs_need_a_number(count: int, seed: int) -> None:
    with pytest.raises(Mbv3cError):
        random_inputs(model(), count, seed)


def rescaling() -> onnx.ModelProto:
    """Return what Keras exports: NHWC pixels from 0 to 255, brought to -1 to 1 in the graph."""
    text = """
        g (float[1, 8, 8, 3] x) => (float[1, 4, 8, 8] y) {
            m = Mul (x, a)
            s = Add (m, b)
            t = Transpose <perm = [0, 3, 1, 2]> (s)
            y = Conv <pads = [1, 1, 1, 1]> (t, w)
        }
    """
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    scale, shift = np.array(1 / 127.5, np.float32), np.array(-1, np.float32)
    return graph(text, a=scale, b=shift, w=weights)


def test_a_model_that_normalises_pixels_is_calibrated_on_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in range(8):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    model = rescaling()
    sources = (folder_inputs(model, tmp_path), random_inputs(model, 4))
    for source in sources:
        assert "pixels from 0 to 255, which the model normalises itself" in source.source
        x = np.stack(list(source.read()))
        assert 0 <= x.min() < 64
        assert 192 < x.max() <= 255
    quantized, _ = quantize(model, sources[0], rank_layers=False)
    frame = rng.integers(0, 256, (1, 8, 8, 3)).astype(np.float32)
    ours, wanted = (run(session(each), frame)[0] for each in (quantized, model))
    assert cosine(ours, wanted) > 0.999


def test_arrays_of_another_byte_order_are_converted(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full(1.5).astype(">f4"))
    np.savez(tmp_path / "b.npz", one=full(2.5).astype(">f4"))
    found = folder_inputs(model(), tmp_path)
    assert values(found) == [1.5, 2.5]
    assert all(x.dtype.isnative for x in found.read())


def test_arrays_of_other_shapes_are_left_to_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full(1.0))
    np.save(tmp_path / "b.npy", np.zeros((3, 8, 8), np.float32))
    shapes = [((1, 3, 4, 6),), ((1, 3, 8, 8),), ((1, 3, 2, 2),)]
    assert values(folder_inputs(model(), tmp_path, shapes=shapes)) == [1.0]
    with pytest.raises(CalibrationError, match=r"\(3, 8, 8\)"):
        folder_inputs(model(), tmp_path)
    (tmp_path / "a.npy").unlink()
    with pytest.raises(UsageError, match="no inputs of the shape 1x3x4x6"):
        folder_inputs(model(), tmp_path, shapes=shapes)


def test_random_inputs_are_not_prepared_like_images() -> None:
    with pytest.raises(UsageError, match="random inputs are no images"):
        inputs_from(model(), None, 4, None, Overrides(mean=(0.5, 0.5, 0.5)))
