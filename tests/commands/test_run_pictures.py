"""`mbv3c run` on pictures, as a user runs it: answers in words and drawn."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from mbv3c.pictures.drawing import colour_of
from mbv3c.quantization.images import Overrides, preprocessing, read_image
from tests.built_once import built_once
from tests.command_line import document, mbv3c
from tests.ends.camera import CLASSES, LABELS, SIDE, classifier, outputs
from tests.onnx_text import graph

SAID = Overrides(mean=(0.5,) * 3, resize=20, bgr=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures of random colours: one turned, one in a folder, one broken."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for at, (name, options) in enumerate(
        (("a.png", {}), ("b.jpg", {"exif": exif, "quality": 95}), ("deeper/c.png", {}))
    ):
        pixels = np.random.default_rng(at).integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((50, 40), 0).save(folder / name, **options)
    (folder / "d.jpg").write_bytes(b"no image")
    return folder


def scores_of(path: Path) -> np.ndarray:
    """Return what onnxruntime computes for a picture, prepared as was said to `compile`."""
    model = classifier()
    x = read_image(path, preprocessing(model, (1, 3, SIDE, SIDE), SAID))[None]
    return outputs(model, x)[0][0]


def test_a_picture_is_prepared_as_the_bundle_says(named_bundle: Path, photos: Path) -> None:
    wanted = scores_of(photos / "b.jpg")
    run = ("run", named_bundle, "--input", photos / "b.jpg")
    told = document(mbv3c(*run, "--top", 3, "--json"))
    best = np.argsort(-wanted, kind="stable")[:3]
    assert [one["index"] for one in told["classes"]] == best.tolist()
    assert [one["label"] for one in told["classes"]] == [LABELS[at] for at in best]
    assert [one["score"] for one in told["classes"]] == pytest.approx(wanted[best], 1e-4)
    lines = mbv3c(*run).stdout.splitlines()
    assert len(lines) == 6
    assert lines[1].endswith(f"class {best[0]}  {LABELS[best[0]]}")


def test_a_model_that_was_not_compiled_is_run_by_onnxruntime(
    named_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    """The model in the bundle says how images are prepared, as the bundle does."""
    model = named_bundle / "model.onnx"
    run = ("run", model, "--input", photos / "b.jpg")
    told = document(mbv3c(*run, "-o", tmp_path / "y.npz", "--json"))
    best = np.argsort(-scores_of(photos / "b.jpg"), kind="stable")[:5]
    assert [one["index"] for one in told["classes"]] == best.tolist()
    assert [one["label"] for one in told["classes"]] == [LABELS[at] for at in best]
    assert told["ran_on"] == f"onnxruntime {version('onnxruntime')}, and not compiled"
    with np.load(tmp_path / "y.npz") as file:
        (name,) = file.files
        np.testing.assert_allclose(file[name][0], scores_of(photos / "b.jpg"), rtol=1e-5)
    refused = mbv3c("run", model, "--input", photos)
    assert refused.returncode == 2
    assert f"a folder of images takes a bundle: `mbv3c compile {model}" in refused.stderr
    refused = mbv3c(*run, "--device", "127.0.0.1:9")
    assert refused.returncode == 2
    assert "is a model: --device, --tracker, --trust and --key take a bundle" in refused.stderr
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    refused = mbv3c("run", model, "--input", tmp_path / "x.npy")
    assert refused.returncode == 2
    assert "x.npy holds float32 (3,); the model wants float32 (1, 3, " in refused.stderr


def _relu(path: Path, shape: list[int | str]) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    onnx.save(helper.make_model(graph, ir_version=9), path)
    return path


def test_models_of_any_shape_are_run_or_refused(tmp_path: Path) -> None:
    """A scalar has no batch, and `run` has no option to fix a shape."""
    np.save(tmp_path / "x.npy", np.float32(-1))
    given = ("--input", tmp_path / "x.npy")
    told = document(mbv3c("run", _relu(tmp_path / "scalar.onnx", []), *given, "--json"))
    assert told["shape"] == []
    refused = mbv3c("run", _relu(tmp_path / "open.onnx", ["N", 3]), *given)
    assert refused.returncode == 1
    assert "`run` has no such option: `mbv3c optimize " in refused.stderr


def test_any_name_will_do_and_labels_can_be_given(
    named_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    named, labels = tmp_path / "photo", tmp_path / "labels.txt"
    named.write_bytes((photos / "a.png").read_bytes())
    labels.write_text("\n".join(f"kind {at}" for at in range(CLASSES)))
    done = mbv3c("run", named_bundle, "--input", named, "--labels", labels, "--top", 1)
    best = int(scores_of(photos / "a.png").argmax())
    assert done.stdout.splitlines()[1].endswith(f"class {best}  kind {best}")


def test_a_folder_has_an_answer_for_each_picture(
    named_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    run = ("run", named_bundle, "--input", photos, "--top", 2)
    told = document(mbv3c(*run, "-o", tmp_path / "drawn", "--json"))
    assert (told["broken"], told["output"]) == (1, str(tmp_path / "drawn"))
    names = ["a.png", "b.jpg", "d.jpg", "deeper/c.png"]
    assert [row["file"] for row in told["images"]] == names
    assert "no format" in told["images"][2]["broken"]
    for row in told["images"][:2] + told["images"][3:]:
        wanted = scores_of(photos / row["file"])
        assert [one["index"] for one in row["classes"]] == np.argsort(-wanted)[:2].tolist()
        with Image.open(tmp_path / "drawn" / f"{row['file']}.png") as drawing:
            assert min(drawing.size) >= 320
    lines = mbv3c(*run).stdout.splitlines()
    assert lines[2].startswith("d.jpg: broken: it has no format")
    assert lines[-1] == "3 images; 1 broken; computed on this machine"
    best = int(scores_of(photos / "a.png").argmax())
    assert lines[0].startswith("a.png: ") and f" {LABELS[best]}, " in lines[0]


def test_nothing_but_broken_pictures(named_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    done = mbv3c("run", named_bundle, "--input", tmp_path)
    assert done.returncode == 1
    assert "none of the 1 images in" in done.stderr and "the first is x.png: it has" in done.stderr


@pytest.fixture(scope="module")
def map_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that gives each pixel the class of its strongest colour, or a fourth one."""

    def build(folder: Path) -> None:
        weights = np.vstack([np.eye(3), np.zeros((1, 3))]).reshape(4, 3, 1, 1)
        model = graph(
            "g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) { y = Conv(x, w, b) }",
            w=weights.astype(np.float32),
            b=np.array([0, 0, 0, 0.5], np.float32),
        )
        onnx.save(model, folder / "model.onnx")
        (folder / "labels.txt").write_text("red\ngreen\nblue\nbackground\n")
        said = ("--mean", "0", "--std", "1", "--resize", "stretch", "--tune-logs", "none")
        done = mbv3c(
            *("compile", folder / "model.onnx", "--target", "host_cpu", *said),
            *("--labels", folder / "labels.txt", "-o", folder / "bundle"),
        )
        assert done.returncode == 0, done.stderr
        assert "classes: 4, named red, green, blue, ..." in done.stdout

    return built_once(tmp_path_factory, "a map of colours", build) / "bundle"


def test_a_map_is_drawn_onto_the_picture(map_bundle: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (800, 400), (0, 0, 0))
    picture.paste((0, 255, 0), (400, 0, 600, 400))
    picture.paste((0, 0, 255), (600, 0, 800, 400))
    picture.save(tmp_path / "x.png")
    run = ("run", map_bundle, "--input", tmp_path / "x.png")
    told = document(mbv3c(*run, "-o", tmp_path / "y.png", "--json"))
    areas = {one["label"]: one["share"] for one in told["areas"]}
    assert areas == {"background": 0.5, "green": 0.25, "blue": 0.25}
    with Image.open(tmp_path / "y.png") as opened:
        drawn = np.asarray(opened)
    assert drawn[300, 100].tolist() == [0, 0, 0]
    for column, index, under in ((500, 1, (0, 255, 0)), (700, 2, (0, 0, 255))):
        mixed = 0.55 * np.array(colour_of(index)) + 0.45 * np.array(under)
        np.testing.assert_allclose(drawn[300, column], mixed, atol=2)
    assert mbv3c(*run).stdout.splitlines()[1:] == [
        " 50.00%  background",
        " 25.00%  green",
        " 25.00%  blue",
    ]


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--top", 0), 2, "--top 0 shows nothing; take 1 or more"),
        (("-o", "y.gif"), 2, "y.gif: a picture's name ends in .png, .jpg, .jpeg, .webp"),
        (("--raw", "--top", 3), 2, "--raw gives outputs as they are, without answers"),
        (("--labels", "two.txt"), 2, "--labels has 2 lines, and the model has 8 classes"),
        (
            ("--input", "x.npy", "-o", "y.png"),
            2,
            "is a picture to draw on, and --input is no image",
        ),
        (("--input", "x.npy", "--mean", "1"), 2, "--mean belongs to an image as --input"),
        (("--input", "x.jpg"), 1, "x.jpg is no image, or it is broken: it has no format"),
        (("--input", "empty"), 2, "empty holds no images (.jpg,"),
        (("--input", "empty", "--raw"), 2, "--raw writes arrays, and a folder has answers"),
        (("--input", "empty", "-o", "x.jpg"), 2, "x.jpg exists; write over it with --force"),
    ],
)
def test_mistakes(
    named_bundle: Path,
    photos: Path,
    tmp_path: Path,
    more: tuple[object, ...],
    code: int,
    words: str,
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, SIDE, SIDE), np.float32))
    (tmp_path / "x.jpg").write_text("no image")
    (tmp_path / "two.txt").write_text("ant\nbee\n")
    (tmp_path / "empty").mkdir()
    given = () if "--input" in more else ("--input", photos / "a.png")
    done = mbv3c("run", named_bundle, *given, *more, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert not list(tmp_path.glob("y.*"))
