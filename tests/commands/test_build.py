"""`mbv3c build` as a user runs it."""

import resource
import signal
from pathlib import Path

import onnx
import pytest

from tests.command_line import document, mbv3c, mbv3c_process

MODEL = ("--variant", "small", "--resolution", "96", "--classes", "10")


def test_build_prints_the_papers_counts(tmp_path: Path) -> None:
    done = mbv3c("build", "--variant", "large", "-o", tmp_path / "large.onnx", "--json")
    assert document(done)["params"] == 5_483_032
    assert document(done)["madds"] == 216_589_760


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_model_on_stdout_has_nothing_beside_it(
    more: tuple[str, ...], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    done = mbv3c("build", *MODEL, "-o", "/dev/stdout", *more)
    model = onnx.load_model_from_string(capfdbinary.readouterr().out)
    assert "/dev/stdout" in done.stderr
    assert len(model.graph.node) > 100
    assert (done.returncode, done.stdout) == (0, "")


def test_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = mbv3c_process(
        "build", "--variant", "small", "-o", tmp_path / "m.onnx", preexec_fn=limit
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_saved_weights_build_the_same_network_again(suffix: str, tmp_path: Path) -> None:
    first, second, weights = tmp_path / "1.onnx", tmp_path / "2.onnx", tmp_path / f"w{suffix}"
    done = mbv3c("build", *MODEL, "--seed", 7, "-o", first, "--save-weights", weights)
    assert done.returncode == 0, done.stderr
    done = mbv3c("build", *MODEL, "--weights", weights, "-o", second)
    assert done.returncode == 0, done.stderr
    graphs = [onnx.load(path).graph for path in (first, second)]
    assert graphs[0] == graphs[1]


def test_weights_of_another_network_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    weights = tmp_path / "w.npz"
    built = mbv3c("build", *MODEL, "-o", tmp_path / "a.onnx", "--save-weights", weights)
    assert built.returncode == 0, built.stderr
    other = ("--variant", "small", "--classes", "11", "--resolution", "96")
    done = mbv3c("build", *other, "--weights", weights, "-o", tmp_path / "b.onnx")
    assert done.returncode == 1
    assert (
        "classifier.3.weight has the shape (10, 1024), the model needs (11, 1024)" in done.stderr
    )
    assert "classifier.3.bias has the shape (10,), the model needs (11,)" in done.stderr
    assert not (tmp_path / "b.onnx").exists()


def test_seed_and_weights_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "w.npz").touch()
    done = mbv3c("build", "--seed", 1, "--weights", "w.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert "--seed and --weights exclude each other" in done.stderr


def test_images_and_classes_are_part_of_the_model(tmp_path: Path) -> None:
    path, labels = tmp_path / "m.onnx", tmp_path / "labels.txt"
    names = [f"kind {number}" for number in range(10)]
    labels.write_text("\n".join(names))
    said = ("--mean", "0.5", "--resize", "stretch", "--labels", labels)
    built = document(mbv3c("build", *MODEL, *said, "-o", path, "--json"))
    assert built["class_names"] == names
    assert (built["preprocessing"]["mean"], built["preprocessing"]["shown"]) == ([0.5] * 3, None)
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert entries["mbv3c.mean"] == "[0.5, 0.5, 0.5]"
    assert entries["mbv3c.shown"] == "null"
    assert "mbv3c.scale" not in entries
    shown = mbv3c("build", *MODEL, *said, "-o", path, "--force").stdout.splitlines()
    assert shown[1].startswith("images: stretched to 96x96 (the model's metadata mbv3c.shown)")
    assert shown[2] == "classes: 10, named kind 0, kind 1, kind 2, ..."
