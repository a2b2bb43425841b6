"""Bundles that take a camera's frames and give classes with names."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from mbv3c import Ends, Frame, Outputs, Overrides, job_of, open_bundle
from mbv3c.accuracy.classify import best_of
from mbv3c.accuracy.scores import MISSING, class_scores
from mbv3c.execution.link import run_zig
from tests.built_once import built_once
from tests.c_library.tampering import changed, differing
from tests.command_line import document, mbv3c
from tests.ends.camera import (
    CLASSES,
    LABELS,
    SIDE,
    classifier,
    converted,
    distances,
    frame,
    outputs,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"
ASKED = ("--input-type", "uint8", "--channel-order", "bgr", "--mean", "0.5", "--outputs")
ENDS = Ends(Frame("NHWC", "BGR", Overrides(mean=(0.5,) * 3)), Outputs(softmax=True, top=1), LABELS)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an image and a bundle for frames, which has a C library, too."""

    def build(folder: Path) -> None:
        onnx.save(classifier(), folder / "camera.onnx")
        (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
        Image.fromarray(frame()[0]).save(folder / "seen.png")
        options = (*ASKED, "softmax,top1", "--labels", folder / "labels.txt")
        done = mbv3c(
            *("compile", folder / "camera.onnx", "--target", "host_cpu", "--tune-logs", "none"),
            *(*options, "--artifact", "c", "--prefix", "network", "-o", folder / "bundle"),
        )
        assert done.returncode == 0, done.stderr
        assert "the C library gives equal bits" in done.stdout

    return built_once(tmp_path_factory, "camera", build)


def test_a_bundle_says_what_it_takes_and_gives(camera: Path) -> None:
    bundle = open_bundle(camera / "bundle")
    (taken,) = bundle.manifest.inputs
    assert (taken.name, taken.shape, taken.dtype) == ("frame", (1, SIDE, SIDE, 3), "uint8")
    given = [(one.name, one.shape, one.dtype) for one in bundle.manifest.outputs]
    assert given == [("scores", (1, 1), "float32"), ("classes", (1, 1), "int64")]
    assert job_of(bundle).ends == ENDS
    assert np.load(bundle.path / "golden" / "input.npy").dtype == np.uint8
    kinds = [kernel.kind for kernel in bundle.manifest.kernels]
    assert kinds[:2] == ["frame", "convolution"]


def test_an_image_becomes_the_frame_and_classes_are_named(camera: Path, tmp_path: Path) -> None:
    command = ("run", camera / "bundle", "--input", camera / "seen.png", "--resize", "stretch")
    found = document(mbv3c(*command, "-o", tmp_path / "y.npz", "--json"))["classes"]
    (scores,) = outputs(classifier(), converted(frame(), (0.5,) * 3))
    best = np.argsort(-scores[0], kind="stable")[:1].tolist()
    assert [one["index"] for one in found] == best
    assert [one["label"] for one in found] == [LABELS[index] for index in best]
    odds = np.exp(scores[0] - scores.max())
    assert [one["score"] for one in found] == pytest.approx((odds / odds.sum())[best], 1e-5)
    shown = mbv3c(*command, "-o", tmp_path / "z.npz").stdout.splitlines()
    assert re.fullmatch(rf"0\.\d+  class {best[0]}  {re.escape(LABELS[best[0]])}", shown[1])
    assert len(shown) == 2


def test_accuracy_is_measured_by_the_best_classes(camera: Path) -> None:
    bundle = open_bundle(camera / "bundle")
    scores, count = class_scores(bundle.manifest, bundle.path)
    assert count == CLASSES
    given = [np.array([[0.5, 0.2]], np.float32), np.array([[6, 1]])]
    (row,) = scores.of(given)
    assert [int(at) for at in np.flatnonzero(row != MISSING)] == [1, 6]
    assert best_of(row) == [6, 1]


def test_a_c_library_names_its_classes(camera: Path, tmp_path: Path) -> None:
    header = next((camera / "bundle" / "c" / "include").glob("*.h")).read_text()
    assert f"#define NETWORK_LABELS {CLASSES}\nextern const char *const network_labels[" in header
    assert "typedef uint8_t network_input_t;" in header
    shared, archive = tmp_path / "camera.so", camera / "bundle" / "c" / "lib" / "libnetwork.a"
    whole = ("-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive")
    # A C library would have to be built by zig first.
    run_zig(["cc", "-shared", "-nostdlib", "-o", str(shared), *whole], "linking a test")
    ctypes.CDLL("libm.so.6", ctypes.RTLD_GLOBAL)
    table = (ctypes.c_char_p * CLASSES).in_dll(ctypes.CDLL(str(shared)), "network_labels")
    assert tuple((name or b"").decode() for name in table) == LABELS


def test_the_example_in_c_takes_frames_and_prints_the_best_classes(
    camera: Path, tmp_path: Path
) -> None:
    folder, image = tmp_path / "c", tmp_path / "image.ppm"
    shutil.copytree(EXAMPLE, folder)
    (tmp_path / "bundle").symlink_to(camera / "bundle")  # make knows no path with spaces
    compiler = "cc" if shutil.which("cc") else f"{sys.executable} -m ziglang cc"
    given = (f"BUNDLE={tmp_path / 'bundle'}", f"CC={compiler}", "CFLAGS=-Wall -Wextra -Werror")
    given = (*given, f"PYTHON={sys.executable}")
    subprocess.run(["make", "-s", "-C", folder, *given], check=True, timeout=300)
    # The pixels go in as they are, and this bundle takes blue first.
    header = f"P6 {SIDE} {SIDE} 255\n".encode()
    image.write_bytes(header + np.ascontiguousarray(frame()[..., ::-1]).tobytes())
    program = [folder / "classify", image]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    (scores,) = outputs(classifier(), converted(frame(), (0.5,) * 3))
    best = int(scores[0].argmax())
    assert done.stdout.startswith(f"class {best}, {LABELS[best]}: ")
    assert len(done.stdout.splitlines()) == 1


def test_another_name_of_a_class_is_found(camera: Path, tmp_path: Path) -> None:
    last = LABELS[-1].encode()

    def change(copied: Path, manifest: dict[str, Any]) -> None:
        archive = copied / "c" / "lib" / "libnetwork.a"
        raw = archive.read_bytes()
        assert raw.count(last + b"\0") == 1
        archive.write_bytes(raw.replace(last + b"\0", last[::-1] + b"\0"))

    found = differing(changed(camera / "bundle", tmp_path, change))
    assert found == ("c/lib/libnetwork.a: its names of classes are not the model's",)

    def say_otherwise(copied: Path, manifest: dict[str, Any]) -> None:
        manifest["model"]["metadata"]["mbv3c.labels"] = json.dumps(LABELS[::-1])

    (tmp_path / "other").mkdir()
    other = changed(camera / "bundle", tmp_path / "other", say_otherwise)
    done = mbv3c("verify", other, "--trust")
    assert done.returncode == 1
    assert "does not describe model.onnx: its name, metadata, inputs or outputs" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--input-type", "uint16"), "--input-type 'uint16' is not known; write uint8"),
        (("--input-layout", "nhwc"), "--input-layout belongs to --input-type uint8"),
        (("--input-type", "uint8", "--input-layout", "hwc"), "write nchw or nhwc"),
        (("--input-type", "uint8", "--channel-order", "grb"), "write rgb or bgr"),
        (("--outputs", "best"), "--outputs 'best' is not known"),
        (("--labels", "none.txt"), "no such file: none.txt"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = mbv3c("compile", "--target", "host_cpu", *options, "-o", tmp_path / "b")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_bundles_model_has_its_ends_already(camera: Path, tmp_path: Path) -> None:
    given = camera / "bundle" / "model.onnx"
    done = mbv3c(
        "compile", given, "--target", "host_cpu", "--outputs", "top1", "-o", tmp_path / "b"
    )
    assert done.returncode == 2
    assert "give the model that the bundle was made of" in done.stderr


@pytest.mark.parametrize(
    ("target", "precision"),
    [("host_cpu", "int8"), ("arm_cpu", "fp16"), ("arm_cpu", "int8"), ("mobile_gpu", "fp32")],
)
def test_a_frame_gives_what_the_model_gives_for_the_converted_frame(
    target: str, precision: str, emulator_kit: object, tmp_path: Path
) -> None:
    """The NPU is among its own tests."""
    error, cosine = distances(tmp_path / "b", target, precision)
    assert error < {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}[precision]
    assert cosine > 0.999
    kernels = json.loads((tmp_path / "b" / "manifest.json").read_text())["kernels"]
    assert [one["kind"] for one in kernels][1] in (
        "convolution",
        "integer_convolution",
        "dequantize",
    )
