"""`mbv3c verify --images` as a user runs it: real images, real interruptions."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c.accuracy.scores import Scores, class_scores
from mbv3c.errors import ImageError, UsageError
from mbv3c.execution.host import HostRunner
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.manifest import TensorRecord
from mbv3c.parity.reference import run, session
from mbv3c.process_tree import children_of
from mbv3c.quantization.images import preprocessing, read_image
from tests.command_line import command_line, document, mbv3c
from tests.image_files import Made, make_images
from tests.manifests import LIBRARY

CLASSES, COUNT, BROKEN = 10, 150, 9
TARGETS = ("--target", "host_cpu")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep journals out of the user's cache; the emulator's kit is not needed here."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MBV3C_CACHE", str(place))
        yield place


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    folder = tmp_path_factory.mktemp("images") / "set"
    return folder, make_images(folder, COUNT, BROKEN, CLASSES)


def compiled(folder: Path, *options: str, names: tuple[str, ...] = ()) -> Path:
    """Compile a narrow network of 96 pixels for this machine."""
    spec = ModelSpec("small", width=0.35, resolution=96, classes=CLASSES)
    model = build_model(spec)
    if names:
        model.metadata_props.add(key="class_names", value=json.dumps(names))
    onnx.save(model, folder / "model.onnx")
    done = mbv3c("compile", folder / "model.onnx", *TARGETS, *options, "-o", folder / "bundle")
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Path:
    return small_bundle


@pytest.fixture(scope="module")
def whole(
    bundle: Path, images: tuple[Path, Made], tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """Return the report of an undisturbed run."""
    listing = tmp_path_factory.mktemp("whole") / "list.csv"
    done = mbv3c("verify", bundle, "--images", images[0], "--list", listing, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_counts_are_those_of_a_plain_loop(
    bundle: Path, images: tuple[Path, Made], whole: dict
) -> None:
    folder, made = images
    model = onnx.load(bundle / "model.onnx")
    opened, prepared = session(model), preprocessing(model, (1, 3, 96, 96))
    infer = HostRunner().opened(bundle)
    right = {("given", 1): 0, ("given", 5): 0, ("bundle", 1): 0, ("bundle", 5): 0}
    same = read = 0
    broken = set()
    for path in sorted(folder.glob("*/*")):
        try:
            x = read_image(path, prepared)[None]
        except ImageError:
            broken.add(f"{path.parent.name}/{path.name}")
            continue
        read += 1
        label = int(path.parent.name.removeprefix("c"))
        best = {"given": run(opened, x)[0][0], "bundle": infer(x)[0][0]}
        order = {side: np.argsort(-scores)[:5].tolist() for side, scores in best.items()}
        same += order["given"][0] == order["bundle"][0]
        for side, top in right:
            right[side, top] += label in order[side][:top]
    assert broken == made.broken
    assert (whole["images"], whole["read"], whole["broken"]) == (COUNT, read, BROKEN)
    assert whole["labelled"] == read == COUNT - BROKEN
    for (side, top), count in right.items():
        found = whole["accuracy"][side][f"top{top}"]
        assert (found["count"], found["of"]) == (count, read)
        assert found["low"] < found["share"] < found["high"]
    assert whole["agreement"]["given"]["top1"]["count"] == same
    assert whole["differing"] == read - same
    assert whole["ran_on"] == "this machine"
    assert whole["exact_program"] is True


def test_broken_images_are_named_with_reasons(images: tuple[Path, Made], whole: dict) -> None:
    with Path(whole["list"]).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["broken"]]
    assert {row["file"] for row in rows} == images[1].broken
    assert {row["file"]: row["broken"] for row in whole["first_broken"]}.items() <= {
        row["file"]: row["broken"] for row in rows
    }.items()


def test_the_preprocessing_says_where_it_comes_from(whole: dict) -> None:
    prepared = whole["preprocessing"]
    assert prepared["from"]["mean"] == "the model's metadata mbv3c.mean"
    assert (prepared["height"], prepared["layout"], prepared["shown"]) == (96, "NCHW", 0.875)


def interrupted(command: list[str], number: signal.Signals, at: int) -> tuple[int, str]:
    """Run until so many images are done, then send a signal; return status and stderr."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    journal = Path(command[command.index("--journal") + 1])
    while process.poll() is None:
        lines = journal.read_bytes().count(b"\n") if journal.is_file() else 0
        if lines > at:
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_interrupted_twice_and_resumed_gives_the_same_report(
    bundle: Path, images: tuple[Path, Made], whole: dict, tmp_path: Path
) -> None:
    journal, listing = tmp_path / "j.jsonl", tmp_path / "list.csv"
    arguments = ["--images", images[0], "--journal", journal, "--list", listing, "--json"]
    command = command_line("verify", bundle, *arguments)
    status, errors = interrupted(command, signal.SIGINT, 20)
    assert status == 130
    assert '"event": "interrupted"' in errors
    first = journal.read_text().count("\n") - 1
    assert 20 <= first < COUNT
    status, _ = interrupted(command, signal.SIGKILL, first + 20)
    assert status == -signal.SIGKILL
    second = journal.read_text().count("\n") - 1
    assert first < second < COUNT
    with journal.open("a") as torn:
        torn.write('{"group": 12')
    done = mbv3c(*command[3:])
    assert done.returncode == 0, done.stderr
    start = next(json.loads(one) for one in done.stderr.splitlines() if '"start"' in one)
    assert start["done"] == second
    places = ("list", "journal")
    report = json.loads(done.stdout)
    assert {key: value for key, value in report.items() if key not in places} == {
        key: value for key, value in whole.items() if key not in places
    }
    assert listing.read_bytes() == Path(whole["list"]).read_bytes()
    # It was named, and so it is kept, and belongs to this bundle and these images alone.
    other = mbv3c(*command[3:], "--mean", "0.5")
    assert other.returncode == 2
    assert "belongs to a measurement with another preprocessing" in other.stderr
    # Journals from before there was --scale and --bgr say neither, and go on.
    head = json.loads(journal.read_bytes().splitlines()[0])
    assert set(head["preprocessing"]) == {"height", "width", "layout", "mean", "std", "shown"}
    for more in (("--bgr",), ("--scale", "1")):
        other = mbv3c(*command[3:], *more)
        assert other.returncode == 2
        assert "belongs to a measurement with another preprocessing" in other.stderr


def test_the_default_journal_goes_and_the_list_stays(
    bundle: Path, images: tuple[Path, Made], cache: Path
) -> None:
    done = mbv3c("verify", bundle, "--images", images[0], "--limit", 12, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in (cache / "accuracy").iterdir()] == [".csv"]
    assert re.search(r"top-1 +top-5", done.stdout)
    assert "a sample (seed 3)" in done.stdout
    assert "in brackets 95% confidence intervals" in done.stdout
    assert "the model's metadata mbv3c.mean" in done.stderr
    assert "12 images done" in done.stderr


def test_a_wrong_library_shows(bundle: Path, images: tuple[Path, Made], tmp_path: Path) -> None:
    """Other weights in the library: accuracy and agreement fall, and the images are listed."""
    spec = ModelSpec("small", width=0.35, resolution=96, classes=CLASSES, seed=7)
    onnx.save(build_model(spec), tmp_path / "other.onnx")
    other, forged = tmp_path / "other", tmp_path / "forged"
    done = mbv3c("compile", tmp_path / "other.onnx", *TARGETS, "-o", other, "--no-verify")
    assert done.returncode == 0, done.stderr
    shutil.copytree(bundle, forged)
    shutil.copy(other / "model.so", forged / "model.so")
    manifest = json.loads((forged / "manifest.json").read_text())
    digests = json.loads((other / "manifest.json").read_text())["files"]
    manifest["files"]["model.so"] = digests["model.so"]
    (forged / "manifest.json").write_text(json.dumps(manifest))
    listing = tmp_path / "list.csv"
    arguments = ("--images", images[0], "--list", listing, "--json")
    listing.write_text("here before")
    refused = mbv3c("verify", forged, "--trust", *arguments)
    assert refused.returncode == 2
    assert "write over it with --force" in refused.stderr
    assert listing.read_text() == "here before"
    done = mbv3c("verify", forged, "--trust", "--force", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["agreement"]["given"]["top1"]["share"] < 0.9
    assert found["differing"] == found["read"] - found["agreement"]["given"]["top1"]["count"]
    with listing.open(newline="") as file:
        differing = [row for row in csv.DictReader(file) if not row["broken"]]
    assert len(differing) == found["differing"]
    assert all(row["given"] != row["bundle"] and float(row["lead"]) > 0 for row in differing)


def test_int8_is_beside_fp32_and_qdq(images: tuple[Path, Made], tmp_path: Path) -> None:
    arguments = ("--precision", "int8", "--no-verify")
    bundle = compiled(tmp_path, *arguments, names=tuple(f"c{one}" for one in range(CLASSES)))
    done = mbv3c("verify", bundle, "--images", images[0], "--limit", 30, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["accuracy"]) == {"given", "quantized", "bundle"}
    assert set(found["agreement"]) == set(found["difference"]) == {"given", "quantized"}
    agreement = {one: found["agreement"][one]["top1"]["share"] for one in found["agreement"]}
    assert agreement["quantized"] >= agreement["given"]
    assert agreement["quantized"] > 0.9
    assert found["labels"] == "the folders, whose names the model's metadata have"
    assert found["class_names"] == [f"c{one}" for one in range(CLASSES)]


def test_without_labels_there_is_agreement_only(
    bundle: Path, images: tuple[Path, Made], tmp_path: Path
) -> None:
    done = mbv3c("verify", bundle, "--images", images[0] / "c3", "--json", "--resize", "stretch")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["accuracy"] is None
    assert found["difference"] is None
    assert found["labelled"] == 0
    assert found["agreement"]["given"]["top1"]["of"] == found["read"]
    assert found["preprocessing"]["shown"] is None
    assert found["preprocessing"]["from"]["shown"] == "--resize, --crop"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--labels", "x.csv"), "--labels belongs to --images"),
        (("--list", "x.csv"), "--list belongs to --images"),
        (("--images", "gone"), "no such file or folder: gone"),
        (("--images", ".", "--mean", "1,2"), "--mean '1,2' is not a number"),
        (("--images", ".", "--scale", "0"), "--scale 0 is not possible"),
        (("--bgr",), "--bgr belongs to"),
        (("--scale", "1"), "--scale belongs to"),
        (("--images", ".", "--std", "0"), "--std 0 is not possible"),
        (("--images", ".", "--resize", "big"), "neither a number of pixels nor stretch"),
        (("--images", ".", "--layout", "NHWC"), "does not fit the model's input"),
    ],
)
def test_wrong_usage_is_told(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    done = mbv3c("verify", bundle, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_only_broken_images_are_an_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    done = mbv3c("verify", bundle, "--images", tmp_path)
    assert done.returncode == 1
    assert "none of the 1 images" in done.stderr
    assert "a.jpg: it is empty" in done.stderr


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"y": [2, 7]}, Scores(0, 1)),
        ({"boxes": [2, 5, 4], "y": [2, 7, 1, 1]}, Scores(1, 1)),
        ({"pixels": [2, 7, 8, 8]}, None),
        ({"anchors": [2, 5, 7]}, None),
        ({"y": [2, 7], "z": [2, 7]}, None),
    ],
)
def test_class_scores_are_found_or_refused(
    outputs: dict[str, list[int]], found: Scores | None
) -> None:
    records = tuple(TensorRecord(name, tuple(shape), "float32") for name, shape in outputs.items())
    images = TensorRecord("input", (2, 3, 8, 8), "float32")
    manifest = replace(LIBRARY, input=images, outputs=records)
    if found is not None:
        assert class_scores(manifest, Path("b")) == (found, 7)
        return
    with pytest.raises(UsageError, match="one row of class scores per image"):
        class_scores(manifest, Path("b"))


def test_a_library_that_crashes_is_told_and_what_was_found_is_kept(
    bundle: Path, images: tuple[Path, Made], tmp_path: Path
) -> None:
    """Kill the process that runs the library in the middle of it."""
    journal = tmp_path / "j.jsonl"
    arguments = ["--images", str(images[0]), "--journal", str(journal), "--json"]
    command = command_line("verify", bundle, *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 10):
        assert process.poll() is None
    below = process.pid
    for _ in ("guard", "command", "library"):
        below = children_of(below)[0]
    os.kill(below, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with status -9" in json.loads(out)["error"]["message"]
    assert journal.read_bytes().count(b"\n") > 10
    assert mbv3c(*command[3:]).returncode == 0


def test_accuracy_is_a_gate(named_bundle: Path, tmp_path: Path) -> None:
    for at, name in enumerate(("bee", "fox", "gnu", "bee")):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(at).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / name / f"{at}.png")
    verify = ("verify", named_bundle, "--images", tmp_path / "set")
    limits = ("--max-accuracy-drop", "0%", "--min-agreement", "100%")
    files = [tmp_path / name for name in ("r.json", "j.xml", "p.html")]
    written = ("--report", files[0], "--junit", files[1], "--html", files[2])
    told = document(mbv3c(*verify, *limits, *written, "--json"))
    assert (told["passed"], told["exit_code"], len(told["checks"])) == (True, 0, 2)
    assert told["class_names"][1] == "bee"
    report = json.loads(files[0].read_text())
    suites = ElementTree.parse(files[1]).getroot()
    assert [suite.get("failures") for suite in suites] == ["0"]
    assert "all of 2 checks" in files[2].read_text()
    # Once it was better: the bundle was right on every image, and so is not any more.
    assert report["accuracy"]["bundle"]["top1"]["share"] < 1
    report["accuracy"]["bundle"]["top1"]["share"] = 1.0
    files[0].write_text(json.dumps(report))
    done = mbv3c(*verify, "--baseline", files[0], "--junit", files[1])
    assert done.returncode == 1
    assert re.search(r"MISSED top-1 accuracy: .*, was 100\.00%", done.stdout)
    failed = ElementTree.parse(files[1]).getroot()
    assert [suite.get("failures") for suite in failed] == ["0", "1"]
