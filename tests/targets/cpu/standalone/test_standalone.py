"""A network with every kernel, as a C library for cores without a runtime, emulated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbv3c import inference
from mbv3c.c_library.archive import ArchiveObject
from mbv3c.c_library.check import FilesParity
from mbv3c.c_library.run import CLibrary
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.cores import CoresKit
from mbv3c.execution.link import run_zig, zig_machine
from mbv3c.parity.golden import read_golden
from mbv3c.targets import backend_of, find_target, open_bundle
from mbv3c.targets.cpu.artifact import c_library_of, c_source_of
from mbv3c.targets.cpu.devices import CpuTarget
from mbv3c.targets.cpu.standalone.backend import BACKEND
from mbv3c.targets.cpu.standalone.runner import LinuxRunner
from mbv3c.targets.library.again import lowered_again
from mbv3c.targets.library.manifest import manifest_of
from tests.built_once import built_once
from tests.c_library.tampering import changed, replaced
from tests.command_line import document, mbv3c


@pytest.fixture(scope="module")
def bundle(
    blocks_file: Path, cores_kit: CoresKit, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a bundle for a Cortex-A7, whose library is called `network`."""

    def compile_to(place: Path) -> None:
        options = ("--target", "arm_cpu:cortex-a7", "--prefix", "network", "--force", "--json")
        _check(document(mbv3c("compile", blocks_file, *options, "-o", place)), "cortex-a7")

    return built_once(tmp_path_factory, "Cortex-A7", compile_to)


@pytest.fixture(scope="module")
def riscv(
    blocks_file: Path, cores_kit: CoresKit, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a bundle for a RISC-V, in int8."""

    def compile_to(place: Path) -> None:
        options = ("--target", "riscv_cpu", "--precision", "int8", "--force", "--json")
        done = mbv3c("compile", blocks_file, *options, "--prefix", "network", "-o", place)
        _check(document(done), "rv64")

    return built_once(tmp_path_factory, "RISC-V in int8", compile_to)


def _check(shown: dict[str, Any], core: str) -> None:
    parity = shown["parity"]
    assert (parity["passed"], parity["not_checked"]) == (True, None)
    assert parity["ran_on"] == f"emulated {core}"
    assert parity["kernels_alone"]["count"] > 10
    assert shown["c_library"]["needs"] == ["getauxval"]


@pytest.mark.parametrize("name", ["bundle", "riscv"])
def test_it_gives_what_compile_saw(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    x = np.load(path / "golden" / "input.npy")
    (ran,) = inference.run_bundle(path, x).arrays.values()
    with BACKEND.open(open_bundle(path), print) as opened:
        ((again,),) = opened.runner.run(path, [x])
    assert np.array_equal(ran, again)
    assert not np.array_equal(again, np.zeros_like(again))
    assert not (path / "model.so").exists()


def test_a_product_and_a_sum_are_one_instruction_with_a_lane(bundle: Path) -> None:
    words = np.frombuffer(_code(bundle), "<u4")
    # DDI 0406, A7.4.3, "two registers and a scalar": VMLA.F32 Qd, Qn, Dm[x]; VMUL as A=1001.
    by_lane = np.count_nonzero((words & 0xFFB00F50) == 0xF3A00140)
    apart = np.count_nonzero((words & 0xFFB00F50) == 0xF3A00940)
    assert by_lane > 10 * max(1, apart)


def _code(bundle: Path) -> bytes:
    opened = open_bundle(bundle)
    elf = ArchiveObject(c_library_of(opened).archive)._elf
    sections = (section for section in elf.iter_sections() if section["sh_flags"] & 4)
    return b"".join(section.data()[: section["sh_size"] // 4 * 4] for section in sections)


def test_instructions_are_counted(bundle: Path) -> None:
    opened = open_bundle(bundle)
    with BACKEND.open(opened, print) as runnable:
        assert isinstance(runnable.runner, LinuxRunner)
        counted = runnable.runner.count(np.load(bundle / "golden" / "input.npy"))
    madds = sum(kernel.madds for kernel in manifest_of(opened).kernels)
    assert counted.instructions == sum(counted.by_function.values())
    assert madds / 4 < counted.instructions < 2 * madds
    assert any(name.startswith("pointwise") for name in counted.by_function)


@pytest.mark.parametrize("name", ["bundle", "riscv"])
def test_bench_counts_kernel_by_kernel(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    done = mbv3c("bench", path, "--profile", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    *kernels, elsewhere = found["kernels"]
    assert found["emulated"]
    assert (found["classes"], found["estimated_cycles"], found["median_ms"]) == (None, None, None)
    assert found["instructions"] == sum(kernel["instructions"] for kernel in found["kernels"])
    assert elsewhere["kernel"] == "elsewhere"
    assert elsewhere["share"] < 0.1
    assert all(
        kernel["instructions"] >= kernel["madds"] / 8 > 0 for kernel in kernels if kernel["madds"]
    )
    calls = manifest_of(open_bundle(path)).kernels
    assert sum(kernel["calls"] for kernel in kernels) == len(calls)
    assert "no cycles are estimated" in mbv3c("bench", path, "--profile").stdout


@pytest.mark.parametrize(
    ("name", "changes", "lacking"),
    [
        ("bundle", {"emulated_as": "cortex-a9"}, "network_run returned an error"),
        ("riscv", {"emulated_with": "v=true,vlen=128"}, "network_run returned an error"),
    ],
)
def test_on_a_processor_that_lacks_instructions_nothing_is_computed(
    name: str, changes: dict[str, str], lacking: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    with BACKEND.open(open_bundle(path), print) as opened:
        assert isinstance(opened.runner, LinuxRunner)
        poorer = replace(opened.runner, target=replace(opened.runner.target, **changes))
        with pytest.raises(ToolError, match=lacking):
            poorer.run(path, [np.load(path / "golden" / "input.npy")])


def test_verify_finds_another_weight(bundle: Path, tmp_path: Path) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        archive = copied / "c" / "lib" / "libnetwork.a"
        data = bytearray(archive.read_bytes())
        step = next(step for step in again.lowered.plan.steps if step.constants)
        weights = next(iter(step.constants.values())).tobytes()
        at = data.index(weights)
        data[at + 3] ^= 0x40  # the exponent of the first
        archive.write_bytes(data)

    again = lowered_again(BACKEND, open_bundle(bundle))
    broken = changed(bundle, tmp_path, change)
    done = mbv3c("verify", broken, "--trust", "--json")
    parity = document(done, 3)
    assert not parity["passed"]
    assert not parity["constants"]["passed"]
    assert not parity["kernels_alone"]["passed"]


def test_what_lies_beside_the_archive_is_what_the_model_gives(
    bundle: Path, tmp_path: Path
) -> None:
    def change(copied: Path, manifest: dict[str, Any]) -> None:
        replaced(
            copied / "c" / "include" / "network.h", "Nothing is allocated", "Much is allocated"
        )

    plain = document(mbv3c("verify", bundle, "--json"))
    assert plain["files"] == FilesParity(6).to_json() | {"differing": []}
    done = mbv3c("verify", changed(bundle, tmp_path, change), "--trust")
    assert done.returncode == 3
    assert "c/include/network.h is not what this version of mbv3c writes" in done.stdout


def test_what_is_not_possible_is_told(bundle: Path, blocks_file: Path, tmp_path: Path) -> None:
    a7 = ("--target", "arm_cpu:cortex-a7")
    output = ("-o", tmp_path / "b")
    for command, message in (
        (("compile", blocks_file, *a7, "--precision", "fp16", *output), "choose --precision fp32"),
        (("compile", blocks_file, *a7, "--artifact", "app", *output), "as with --artifact c"),
        (("compile", blocks_file, *a7, "--artifact", "c-source", *output), "cortex-a53 --artif"),
        (("verify", bundle, "--ladder"), "no stages that run apart"),
        (("verify", bundle, "--device", "localhost:9"), "run c/test on the board"),
        (
            ("bench", bundle, "--runs", "3"),
            "--runs cannot be used here: of a library on the emulated",
        ),
        (("tune", blocks_file, *a7), "there is nothing to tune for arm_cpu:cortex-a7"),
    ):
        done = mbv3c(*command)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
    assert not (tmp_path / "b").exists()


def test_sources_for_another_core_run_on_this_one(
    blocks_file: Path, cores_kit: CoresKit, tmp_path: Path
) -> None:
    place, options = tmp_path / "b", ("--artifact", "c-source", "--prefix", "network")
    command = ("compile", blocks_file, "--target", "arm_cpu:cortex-a53", *options, "--no-verify")
    document(mbv3c(*command, "-o", place, "--json"))
    source, objects = c_source_of(open_bundle(place)), list[str]()
    flags = ("-std=c11", "-O2", "-ffp-contract=fast", "-fno-sanitize=all", "-fno-stack-protector")
    for path in (path for path in source.sources if path.suffix == ".c"):
        objects.append(str(tmp_path / f"{path.stem}.o"))
        machine = zig_machine("armv7-linux-gnueabihf", "cortex-a7")
        include = ("-I", str(source.header.parent))
        run_zig(["cc", "-c", *machine, *flags, *include, "-o", objects[-1], str(path)], "it")
    archive = tmp_path / "libnetwork.a"
    run_zig(["ar", "rcsD", str(archive), *objects], "it")
    target = find_target("arm_cpu:cortex-a7")
    assert isinstance(target, CpuTarget)
    library = CLibrary("network", source.header, archive, source.inputs, source.outputs)
    golden = read_golden(open_bundle(place))
    ((made,),) = LinuxRunner(cores_kit, target, library).run(tmp_path, [golden.input])
    (expected,) = golden.outputs
    assert np.abs(made - expected).max() <= golden.allowed[0] * np.ptp(expected)


def test_a_device_has_the_backend_that_its_row_says() -> None:
    assert backend_of(find_target("arm_cpu:cortex-a7")) is BACKEND
    assert backend_of(find_target("riscv_cpu")) is BACKEND
    assert backend_of(find_target("arm_cpu:cortex-a53")) is not BACKEND
