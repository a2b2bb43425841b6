"""Images of every kind are found, prepared as the model says, and parted."""

import errno
import gzip
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c.accuracy.image_sets import Classes
from mbv3c.errors import BundleError, ModelError, UsageError
from mbv3c.graphs.outputs import with_metadata
from mbv3c.parity.running import session
from mbv3c.quantization.images import Overrides, preprocessing, read_image
from mbv3c.training.classifier import trained_metadata
from mbv3c.training.evaluate import evaluate
from mbv3c.training.examples import Examples, open_examples
from mbv3c.training.given import classes_of
from tests.onnx_text import graph, random
from tests.training.conftest import DIGITS

SIDE = 12


def classifier(classes: int = 3, layout: str = "NCHW") -> onnx.ModelProto:
    shape = f"1, 3, {SIDE}, {SIDE}" if layout == "NCHW" else f"1, {SIDE}, {SIDE}, 3"
    return graph(
        f"g (float[{shape}] x) => (float[1, {classes}] y) {{ a = Flatten(x) y = Gemm(a, w) }}",
        w=random(3 * SIDE * SIDE, classes),
    )


def pictures(count: int, side: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def write_folders(folder: Path, names: tuple[str, ...], each: int, seed: int = 0) -> None:
    images = iter(pictures(len(names) * each, seed=seed))
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            Image.fromarray(next(images)).save(folder / name / f"{index}.png")


def all_of(examples: Examples, part: str) -> np.ndarray:
    return examples.batch(part, slice(None))


def test_folders_are_read_as_calibration_and_verify_read_them(tmp_path: Path) -> None:
    write_folders(tmp_path, ("cat", "dog", "owl"), 4)
    model = classifier()
    examples = open_examples(tmp_path, model, validation=0.25)
    assert (examples.count("train"), examples.count("validation")) == (9, 3)
    assert examples.labels("validation").tolist() == [0, 1, 2]
    assert examples.classes == Classes(3, ("cat", "dog", "owl"))
    files = sorted(tmp_path.rglob("*.png"))
    wanted = [read_image(path, preprocessing(model, (1, 3, SIDE, SIDE))) for path in files]
    found = [
        x.transpose(2, 0, 1) for part in ("train", "validation") for x in all_of(examples, part)
    ]
    assert sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in wanted)


def test_images_of_one_class_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, ("cat",), 4)
    with pytest.raises(UsageError, match=r"two classes or more.* name the folder whose folders"):
        open_examples(tmp_path, classifier())


def test_a_cache_on_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to a map of which the disk has too few bytes would end the process."""

    def full(descriptor: int, begin: int, size: int) -> None:
        assert size >= 12 * 3 * SIDE * SIDE
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_folders(tmp_path / "photos", ("cat", "dog", "owl"), 4)
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(BundleError, match=r"cannot write .*cache.*No space left on device"):
        open_examples(tmp_path / "photos", classifier(), validation=0.25)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shown", [None, 0.5, 1.0])
def test_what_a_trained_model_says_gives_these_pixels_again(
    layout: str, shown: float | None, tmp_path: Path
) -> None:
    """Whoever reads the metadata afterwards prepares images as training did."""
    write_folders(tmp_path, ("a", "b", "c"), 2)
    given = {"mbv3c.mean": "[0.1, 0.2, 0.3]", "mbv3c.std": "[0.5, 1, 2]"}
    model = with_metadata(classifier(layout=layout), {**given, "mbv3c.shown": json.dumps(shown)})
    examples = open_examples(tmp_path, model, validation=0.5)
    entries = trained_metadata(examples.preprocessing, examples.classes.names)
    trained = with_metadata(classifier(layout=layout), entries)
    shape = (1, 3, SIDE, SIDE) if layout == "NCHW" else (1, SIDE, SIDE, 3)
    again = preprocessing(trained, shape)
    assert again == examples.preprocessing
    assert again.shown == shown
    assert open_examples(tmp_path, trained, validation=0.5).fingerprint == examples.fingerprint
    overridden = preprocessing(trained, shape, Overrides(resize="stretch", mean=(0.0,) * 3))
    assert (overridden.shown, overridden.mean) == (None, (0.0,) * 3)


@pytest.mark.parametrize("entry", ["0", "1.5", '"all"', "true", "["])
def test_a_share_that_is_none_is_refused(entry: str) -> None:
    model = with_metadata(classifier(), {"mbv3c.shown": entry})
    with pytest.raises(ModelError, match=r"mbv3c.shown is .*, neither a share"):
        preprocessing(model, (1, 3, SIDE, SIDE))


def test_arrays_and_pictures_of_them_are_the_same(tmp_path: Path) -> None:
    """Grey pixels are kept once, and become three channels as a file's would."""
    grey = pictures(6)[..., 0]
    labels = np.array([0, 1, 2, 0, 1, 2])
    np.savez(
        tmp_path / "set.npz", images=grey, labels=labels, class_names=np.array(["a", "b", "c"])
    )
    for index, (image, label) in enumerate(zip(grey, "abcabc", strict=True)):
        (tmp_path / "files" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "files" / label / f"{index}.png")
    model = with_metadata(classifier(), {"mbv3c.shown": "1.0"})
    arrays = open_examples(tmp_path / "set.npz", model, validation=0.5)
    files = open_examples(tmp_path / "files", model, validation=0.5)
    assert arrays.prepared["train"].images.shape == (6, SIDE, SIDE, 1)
    assert files.prepared["train"].images.shape == (6, SIDE, SIDE, 1)
    assert arrays.classes == files.classes
    found = [
        sorted(x.tobytes() for part in ("train", "validation") for x in all_of(one, part))
        for one in (arrays, files)
    ]
    assert found[0] == found[1]
    assert (
        open_examples(tmp_path / "set.npz", classifier(), validation=0.5).preprocessing.shown == 1
    )


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def test_idx_has_a_part_to_test_with(tmp_path: Path) -> None:
    images, labels = pictures(8)[..., 0], np.arange(8, dtype=np.uint8) % 2
    write_idx(tmp_path / "train-images-idx3-ubyte", images[:6], packed=True)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels[:6], packed=False)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[6:], packed=False)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[6:], packed=True)
    examples = open_examples(tmp_path, classifier(2), validation=1 / 3)
    assert [examples.count(part) for part in ("train", "validation", "test")] == [4, 2, 2]
    assert examples.labels("test").tolist() == [0, 1]
    assert classes_of(tmp_path) == Classes(2)
    whole = tmp_path / "t10k-images-idx3-ubyte"
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(UsageError, match="no IDX file of uint8, or it is cut short"):
        open_examples(tmp_path, classifier(2))
    whole.unlink()
    with pytest.raises(UsageError, match="holds t10k-labels, and no t10k-images"):
        open_examples(tmp_path, classifier(2))


def test_folders_may_be_parted_and_lists_name_classes(tmp_path: Path) -> None:
    for part, each in (("train", 3), ("val", 1), ("test", 2)):
        write_folders(tmp_path / part, ("x", "y"), each, seed=each)
    (tmp_path / "test" / "y" / "0.png").unlink()
    (tmp_path / "test" / "y" / "1.png").unlink()
    (tmp_path / "test" / "y").rmdir()  # a part may lack a class
    examples = open_examples(tmp_path, classifier(2))
    assert [examples.count(part) for part in ("train", "validation", "test")] == [6, 2, 2]
    assert set(examples.labels("test")) == {0}
    rows = [f"train/{name}/{index}.png,{name}2" for name in "xy" for index in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *rows]))
    listed = open_examples(tmp_path, classifier(2), labels=tmp_path / "list.csv", validation=0.34)
    assert listed.classes.names == ("x2", "y2")
    assert listed.count("train") + listed.count("validation") == 6
    other = open_examples(tmp_path / "train", classifier(2), validation=tmp_path / "val")
    assert [other.count(part) for part in ("train", "validation", "test")] == [6, 2, 0]
    with pytest.raises(UsageError, match="there are no test images: these have train, validation"):
        evaluate(classifier(2), other, "test")


def test_broken_images_are_left_out_and_told(tmp_path: Path) -> None:
    write_folders(tmp_path, ("a", "b"), 3)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    examples = open_examples(tmp_path, classifier(2), validation=0.34)
    assert examples.count("train") + examples.count("validation") == 5
    prepared = examples.prepared["train"]
    assert prepared.broken == 1
    assert "1.png is no image" in prepared.first_broken
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="none of the images can be read"):
        open_examples(tmp_path, classifier(2))


def test_parts_are_stratified_and_belong_to_a_seed(tiny_model: onnx.ModelProto) -> None:
    one, same, other = (
        open_examples(DIGITS, tiny_model, validation=0.2, test=0.1, seed=seed, limit=900)
        for seed in (0, 0, 1)
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint
    counts = [
        np.bincount(one.labels(part), minlength=10) for part in ("train", "validation", "test")
    ]
    assert sum(map(sum, counts)) == 900
    assert np.abs(counts[1] / sum(counts) - 0.2).max() < 0.01
    assert np.abs(counts[2] / sum(counts) - 0.1).max() < 0.01
    parts = [one.places[part][1] for part in ("train", "validation", "test")]
    assert sorted(np.concatenate(parts)) == list(range(900))


def test_what_was_prepared_is_in_the_cache_and_damage_is_mended(
    tiny_model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    first = open_examples(DIGITS, tiny_model)
    (file,) = tmp_path.glob("examples/*/images.npy")
    written = file.stat().st_mtime_ns
    pixels = open_examples(DIGITS, tiny_model).prepared["train"].images
    assert isinstance(pixels, np.memmap)
    assert file.stat().st_mtime_ns == written
    whole = file.read_bytes()
    file.unlink()  # others may have it open
    file.write_bytes(whole[:200])
    assert open_examples(DIGITS, tiny_model).fingerprint == first.fingerprint
    assert file.read_bytes() == whole


def test_accuracy_counts_what_is_right(tiny_model: onnx.ModelProto, tiny_digits: Examples) -> None:
    """The last batch is not full; some images are taken from all of the part."""
    found = evaluate(tiny_model, tiny_digits, "validation")
    x = tiny_digits.batch("validation", slice(None)).transpose(0, 3, 1, 2)
    opened = session(tiny_model)
    scores = [opened.run(None, {"input": np.ascontiguousarray(one[None])})[0][0] for one in x]
    right = np.argmax(scores, axis=1) == tiny_digits.labels("validation")
    assert found.right.tolist() == right.tolist()
    assert (found.share, found.interval.share) == (right.mean(), right.mean())
    some = evaluate(tiny_model, tiny_digits, "validation", limit=60)
    assert some.right.tolist() == right[np.linspace(0, len(x) - 1, 60).astype(int)].tolist()
    assert found.to_json()["of"] == len(x)


NPZ = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": NPZ["images"]}, r"no array 'images' \(x\); write images and labels"),
        ({"images": NPZ["images"]}, "no array 'labels'"),
        (NPZ | {"labels": np.array([0, 1])}, "labels must be 4 whole numbers"),
        (NPZ | {"labels": np.array([0, 1, 0, -1])}, "a label is negative"),
        (NPZ | {"images": np.zeros((4, 8, 8))}, "images must be uint8"),
        (NPZ | {"images": np.zeros((4, 8, 8, 2), np.uint8)}, "images must be uint8"),
        (
            NPZ | {"labels": np.array([0, 1, 2, 3])},
            "has 4 classes, and the model 2: .* --new-head",
        ),
        (NPZ | {"labels": np.array([0, 1, 0, 100_000])}, "makes 100,001 classes, as they count"),
        (NPZ | {"class_names": np.array(["a", "a"])}, "must be different texts"),
        (NPZ | {"class_names": np.array(["a"])}, "has 2 classes, and 1 class_names"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    arrays: dict[str, np.ndarray], why: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UsageError, match=why):
        open_examples(tmp_path / "set.npz", classifier(2))


def test_other_mistakes_are_told(tmp_path: Path) -> None:
    write_folders(tmp_path / "one", ("a", "b"), 1)
    with pytest.raises(UsageError, match=r"no such folder, and no \.npz file"):
        open_examples(tmp_path / "none", classifier(2))
    with pytest.raises(
        UsageError, match=r"2 classes, and the model 3: make one with `mbv3c build --classes 2"
    ):
        open_examples(tmp_path / "one", classifier(3))
    with pytest.raises(UsageError, match="no images are left for validation"):
        open_examples(tmp_path / "one", classifier(2))
    with pytest.raises(UsageError, match="--validation 2 is no share"):
        open_examples(tmp_path / "one", classifier(2), validation=2.0)
    with pytest.raises(UsageError, match="--limit 1 is too few"):
        open_examples(tmp_path / "one", classifier(2), limit=1)
    with pytest.raises(UsageError, match="--labels none is not possible"):
        open_examples(tmp_path / "one", classifier(2), labels=Path("none"))
    with pytest.raises(UsageError, match="has no folders of classes"):
        open_examples(tmp_path / "one" / "a", classifier(2))
