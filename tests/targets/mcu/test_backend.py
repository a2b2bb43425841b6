"""A network with every kernel, on bare metal in emulated boards."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c import inference
from mbv3c.c_library.check import FilesParity
from mbv3c.targets import open_bundle
from mbv3c.targets.library.again import archived_constants, lowered_again
from mbv3c.targets.mcu.backend import BACKEND
from mbv3c.targets.mcu.devices import MCUS
from mbv3c.targets.mcu.kit import require_kit
from mbv3c.targets.mcu.manifest import c_library_of, manifest_of, record_of
from mbv3c.targets.mcu.runner import BoardRunner, described
from mbv3c.targets.mcu.verifying import checked_files
from tests.built_once import built_once
from tests.c_library.tampering import changed, replaced
from tests.command_line import document, mbv3c
from tests.quantized_networks import network

DEVICES = [target.device for target in MCUS]
EXAMPLE = Path(__file__).parents[3] / "examples" / "cortex-m55"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "network.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle for a Cortex-M7."""

    def compile_to(place: Path) -> None:
        done = mbv3c("compile", model, "--target", "mcu", "-o", place, "--force", "--json")
        _check(document(done), "cortex-m7")

    return built_once(tmp_path_factory, "microcontroller", compile_to)


def _check(shown: dict, device: str) -> None:
    parity, image = shown["parity"], shown["image"]
    assert shown["target"] == f"mcu:{device}"
    assert (parity["passed"], parity["not_checked"]) == (True, None)
    assert parity["ran_on"] == described(BACKEND.wing.find("mcu", device))
    assert parity["kernels_alone"]["count"] == 16
    assert parity["kernels_alone"]["differing"] == 0
    assert parity["constants"]["count"] == 33
    sizes = shown["c_library"]["arena_bytes"], 3 * 19 * 22 * 4, 10 * 4, image["stack_bytes"]
    assert sum(sizes) <= image["sram_bytes"] <= sum(sizes) + 1024
    assert shown["c_library"]["needs"] == []


def test_it_lists_what_it_takes(bundle: Path) -> None:
    opened = open_bundle(bundle)
    image = manifest_of(opened).image
    lines = mbv3c("inspect", bundle).stdout.splitlines()
    assert f"flash: {image.flash_bytes:,} bytes, of 2,048 KiB (ST STM32H743)" in lines
    assert any(line.startswith(f"SRAM: {image.sram_bytes:,} bytes, of 512 KiB") for line in lines)
    assert BACKEND.footprint(opened).sizes["sram_bytes"] == image.sram_bytes


def test_it_gives_the_golden_output_and_counts(bundle: Path) -> None:
    opened = open_bundle(bundle)
    x, golden = (np.load(bundle / "golden" / f"{name}.npy") for name in ("input", "output"))
    ran = inference.run_bundle(bundle, x)
    assert np.array_equal(ran.arrays["logits"], golden)
    with BACKEND.open(opened, print) as runnable:
        assert isinstance(runnable.runner, BoardRunner)
        counted = runnable.runner.count(x)
    assert counted.instructions == pytest.approx(sum(counted.by_function.values()))
    madds = sum(kernel.madds for kernel in manifest_of(opened).kernels)
    assert madds < counted.instructions < 8 * madds
    assert 0 < counted.stack_bytes < manifest_of(opened).image.stack_bytes


def test_a_constant_that_is_not_the_models_is_found(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    again = lowered_again(BACKEND, opened)
    assert archived_constants(
        opened, again, c_library_of(opened), record_of(opened).arena_alignment
    ).passed
    step = next(step for step in again.lowered.plan.steps if step.constants)
    weights = step.arguments[1]
    assert isinstance(weights, np.ndarray)
    weights.flat[-1] ^= 1
    found = archived_constants(
        opened, again, c_library_of(opened), record_of(opened).arena_alignment
    )
    assert found.missed == [
        f"{c_library_of(opened).archive.name} has other constants than its model gives"
    ]


def test_what_lies_beside_the_archive_is_what_the_model_gives(
    bundle: Path, tmp_path: Path
) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        replaced(copied / "c" / "include" / "g.h", "_ARENA_ALIGNMENT 16", "_ARENA_ALIGNMENT 1")
        manifest["image"]["sram_bytes"] = 1

    opened = open_bundle(bundle)
    again, target = lowered_again(BACKEND, opened), BACKEND.target_of(opened)
    assert checked_files(opened, again, target) == FilesParity(6)
    broken = open_bundle(changed(bundle, tmp_path, change))
    assert checked_files(broken, again, target).missed == [
        "c/include/g.h is not what this version of mbv3c writes for this model",
        "manifest.json: its image is not what a program with the library takes",
    ]


def test_what_is_not_possible_is_told(bundle: Path, model: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--sram", 8), "mcu:cortex-m7 needs "),
        (("--precision", "fp32"), "does not compute in fp32; it does in int8"),
    ):
        done = mbv3c("compile", model, "--target", "mcu", *options, "-o", tmp_path / "b")
        assert done.returncode == 2
        assert message in done.stderr
        assert not (tmp_path / "b").exists()
    for command, message in (
        (("verify", bundle, "--ladder"), "no stages that run apart"),
        (("bench", bundle), "benchmarks.mcu"),
        (("tune", model, "--target", "mcu"), "there is nothing to tune for mcu:cortex-m7"),
    ):
        done = mbv3c(*command)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr


@pytest.fixture(scope="module")
def library(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle for a Cortex-M55, whose library is called `network`."""

    def compile_to(place: Path) -> None:
        options = ("--target", "mcu:cortex-m55", "--prefix", "network", "--force", "--json")
        _check(document(mbv3c("compile", model, *options, "-o", place)), "cortex-m55")

    return built_once(tmp_path_factory, "microcontroller with Helium", compile_to)


def test_the_example(library: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    (tmp_path / "bundle").symlink_to(library)  # make knows no path with spaces
    command = [
        *("make", "-s", "-C", str(tmp_path / "example"), "run", "INPUT=network_golden_input_x"),
        *(f"BUNDLE={tmp_path / 'bundle'}", f"ZIG={sys.executable} -m ziglang"),
        *(f"QEMU={' '.join(require_kit().command)}", "CFLAGS=-Os -Wall -Wextra -Werror -pedantic"),
        "LIBS=-nostdlib",  # zig would build its runtime first, which nothing here needs
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    best = np.load(library / "golden" / "output.npy").argmax()
    assert f"class {best}, as the golden output says" in done.stdout + done.stderr


OTHERS = [device for device in DEVICES if device not in ("cortex-m7", "cortex-m55")]


@pytest.mark.parametrize("device", OTHERS)
def test_every_core_gives_equal_bits(model: Path, tmp_path: Path, device: str) -> None:
    done = mbv3c("compile", model, "--target", f"mcu:{device}", "-o", tmp_path / device, "--json")
    _check(document(done), device)
