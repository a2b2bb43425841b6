"""Bundles that tests of several commands look at, each compiled once."""

from pathlib import Path

import onnx
import pytest

from tests.built_once import built_once
from tests.command_line import document, mbv3c
from tests.ends.camera import LABELS, classifier

TINY = ("--variant", "small", "--width", 0.35, "--resolution", 96, "--classes", 10)
SMALL = ("--variant", "small", "--resolution", 96, "--classes", 10)


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return Small of width 0.35, 96 pixels and 10 classes."""

    def build(folder: Path) -> None:
        done = mbv3c("build", *TINY, "-o", folder / "small.onnx")
        assert done.returncode == 0, done.stderr

    return built_once(tmp_path_factory, "small", build) / "small.onnx"


@pytest.fixture(scope="session")
def small_bundle(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of it for this machine."""

    def build(folder: Path) -> None:
        done = mbv3c("compile", small_file, "--target", "host_cpu", "-o", folder / "bundle")
        assert done.returncode == 0, done.stderr

    return built_once(tmp_path_factory, "small for this machine", build) / "bundle"


@pytest.fixture(scope="session")
def arm_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of Small of width 1 for two cores of a Cortex-A76."""

    def build(folder: Path) -> None:
        arguments = (*SMALL, "--target", "arm_cpu", "--cores", 2)
        done = mbv3c("compile", *arguments, "-o", folder / "bundle")
        assert done.returncode == 0, done.stderr

    return built_once(tmp_path_factory, "small for arm", build) / "bundle"


@pytest.fixture(scope="session")
def named_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a classifier that says how its images are prepared, and its classes."""

    def build(folder: Path) -> None:
        onnx.save(classifier(), folder / "model.onnx")
        (folder / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
        said = ("--mean", "0.5", "--resize", "20", "--bgr", "--labels", folder / "labels.txt")
        options = ("--target", "host_cpu", "--tune-logs", "none", *said, "-o", folder / "bundle")
        told = document(mbv3c("compile", folder / "model.onnx", *options, "--json"))
        assert told["class_names"] == list(LABELS)
        assert told["preprocessing"]["from"]["channels"] == "the model's metadata mbv3c.channels"
        assert told["int8_against_fp32"] is None

    return built_once(tmp_path_factory, "named classes", build) / "bundle"


@pytest.fixture(scope="session")
def host_bundle(blocks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a few blocks for this machine."""

    def build(folder: Path) -> None:
        done = mbv3c("compile", blocks_file, "--target", "host_cpu", "-o", folder / "bundle")
        assert done.returncode == 0, done.stderr

    return built_once(tmp_path_factory, "blocks for this machine", build) / "bundle"


@pytest.fixture(scope="session")
def arm_bundle(
    emulator_kit: object, blocks_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a bundle of a few blocks for a Cortex-A76, verified on the emulated one."""

    def build(folder: Path) -> None:
        arguments = ("--target", "arm_cpu", "-o", folder / "bundle", "--json")
        result = document(mbv3c("compile", blocks_file, *arguments))
        assert result["bundle"] == str(folder / "bundle")
        assert result["target"] == "arm_cpu:cortex-a76"
        assert result["parity"]["ran_on"] == "emulated cortex-a76"
        assert result["parity"]["exact_program"] is True

    return built_once(tmp_path_factory, "blocks for arm", build) / "bundle"
