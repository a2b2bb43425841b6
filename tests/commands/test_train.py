"""`mbv3c train` as a user runs it."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.graphs.architecture_file import architecture_text
from mbv3c.graphs.load import load_model
from mbv3c.graphs.outputs import metadata_of
from mbv3c.quantization.images import preprocessing
from mbv3c.training import loop
from tests.command_line import command_line, document, mbv3c
from tests.onnx_text import graph, random
from tests.training.conftest import DIGITS, LAYERS

SHORT = ("--steps", 4, "--batch", 16, "--limit", 400)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep prepared images out of the user's cache."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MBV3C_CACHE", str(place))
        yield place


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Measure the statistics of the result on two batches only: they are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_MEASURED", 2)
        yield


def events(text: str) -> list[dict[str, Any]]:
    """Return the events on stderr, without lines for people."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_network_is_built_for_the_classes_of_the_images_and_trained(tmp_path: Path) -> None:
    (tmp_path / "three.json").write_text(architecture_text(LAYERS))
    given = ("--data", DIGITS, "--architecture", "three.json", "--resolution", 32, *SHORT)
    ways = ("--mean", "0.3", "--std", "0.4", "--augment", "crop,colour", "--test", 0.2)
    done = mbv3c("train", *given, *ways, "-o", "out.onnx", "--json", cwd=tmp_path)
    result = document(done)
    assert (result["classes"], result["class_names"], result["state"]) == (10, None, None)
    assert result["empty_classes"] == []
    images = result["images"]
    assert (sum(images.values()), result["broken"]) == (400, 0)
    assert (images["validation"], images["test"]) == (40, 81)  # a share of each class
    assert (result["validation"]["of"], result["test"]["of"]) == (40, 81)
    assert 0 <= result["test"]["low"] <= result["test"]["share"] <= result["test"]["high"] <= 1
    assert (result["plan"]["augment"], result["plan"]["steps"]) == (["crop", "colour"], 4)
    assert result["epochs"] == pytest.approx(4 / (279 // 16))
    assert result["parameters"]["stored"] - result["parameters"]["trained"] == 3
    assert [event["event"] for event in events(done.stderr)] == [
        "step",
        "start",
        *["progress"] * 4,
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "three.json"]
    prepared = preprocessing(load_model(tmp_path / "out.onnx"), (1, 3, 32, 32))
    assert prepared.to_json() == result["preprocessing"]
    assert (prepared.mean, prepared.std, prepared.shown) == ((0.3,) * 3, (0.4,) * 3, 1.0)


def linear(folder: Path, classes: int = 10) -> Path:
    """Write a classifier of one layer."""
    model = graph(
        f"g (float[1, 3, 8, 8] x) => (float[1, {classes}] y) {{ a = Flatten(x) y = Gemm(a, w) }}",
        w=random(192, classes) / 100,
    )
    onnx.save(model, folder / "linear.onnx")
    return folder / "linear.onnx"


def test_another_last_layer_is_for_the_classes_of_the_images(tmp_path: Path) -> None:
    with np.load(DIGITS) as digits:
        some = digits["labels"] != 3
        np.savez(tmp_path / "some.npz", **{key: digits[key][some] for key in ("images", "labels")})
    given = ("train", linear(tmp_path, 4), "--data", "some.npz", *SHORT, "-o", "out.onnx")
    refused = mbv3c(*given, cwd=tmp_path)
    assert refused.returncode == 2
    assert (
        "has 10 classes, and the model 4: make one with `mbv3c build --classes 10`"
        in refused.stderr
    )
    done = mbv3c(*given, "--new-head", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the model has no BatchNormalization" in done.stderr
    assert "no images to train with are of 1 of the classes: 3\n" in done.stderr
    assert "4 steps of 16 (0.182 epochs), rate 0.01, augmentation: none" in done.stderr
    assert "out.onnx: 4 steps, loss " in done.stdout
    assert "1,920 of 1,920 numbers trained\nvalidation: " in done.stdout
    shape = load_model(tmp_path / "out.onnx").graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 10]


def test_what_makes_no_sense_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    given = ("train", linear(tmp_path), "--data", DIGITS, "-o", "out.onnx")
    for more, why in (
        (("--augment", "turn", "--steps", 1), "unknown --augment 'turn'; known: crop"),
        (("--epochs", 1, "--steps", 1), "--epochs and --steps exclude each other"),
        (("--epochs", 0), "--epochs must be above 0"),
        (("--classes", 10), "--classes cannot be combined with a MODEL"),
        (("--std", 0), "--std 0 is not possible"),
        (("-o", "linear.onnx"), "linear.onnx exists; write over it with --force"),
    ):
        done = mbv3c(*given, *more, cwd=tmp_path)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["linear.onnx"]


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    given = ("train", linear(tmp_path), "--data", DIGITS, *SHORT, "-o", "out.onnx")
    step = loop._Training._step

    def interrupted(self: Any) -> tuple[float, float]:
        if len(self._losses) == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", interrupted)
        done = mbv3c(*given, cwd=tmp_path)
    assert done.returncode == 130
    checkpoint = tmp_path / "out.onnx.train" / "checkpoint.onnx"
    assert "out.onnx.train/checkpoint.onnx is the model so far; the same command" in done.stderr
    assert json.loads(metadata_of(load_model(checkpoint))["mbv3c.training"])["steps_done"] >= 1
    done = mbv3c(*given, "--keep-state", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.onnx").read_bytes() == checkpoint.read_bytes()


def test_killed_again_and_again_it_gives_the_same_file(tmp_path: Path) -> None:
    """It is killed by SIGKILL at some moment after each of its first checkpoints."""
    given = ["--data", DIGITS, "--variant", "small", "--width", 0.35, "--resolution", 32]
    plan = ["--steps", 600, "--batch", 32]
    whole = mbv3c("train", *given, *plan, "-o", "whole.onnx", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = command_line("train", *given, *plan, "-o", "killed.onnx")
    state = tmp_path / "killed.onnx.train" / "state.safetensors"
    rng, kills, before = np.random.default_rng(0), 0, 0
    while True:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while kills < 3 and process.poll() is None and changed(state) == before:
            time.sleep(0.05)
        time.sleep(2 * rng.random())
        if kills == 3 or process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills, before = kills + 1, changed(state)
        time.sleep(1)
    assert process.wait() == 0
    assert kills > 0
    assert (tmp_path / "killed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
