"""Portable targets for x86: what they need, what they make, and who refuses to run it."""

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from tvm.target import codegen

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.host import HostRunner
from mbv3c.job import Job
from mbv3c.pipeline import compile_model
from mbv3c.precision import FP32, INT8, Precision
from mbv3c.targets import find_target
from mbv3c.targets.cpu import isa
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.cores import CORES, processor_of
from mbv3c.targets.cpu.devices import CPUS, CpuTarget
from mbv3c.targets.cpu.isa import ISAS, missing, portable, require_isa
from mbv3c.targets.library.target import tvm_target
from mbv3c.targets.opencl.backend import BACKEND as GPUS_BACKEND

PORTABLE = [target for target in CPUS if target.isa]
AVX2, AVX512 = find_target("host_cpu:avx2"), find_target("host_cpu:avx512")
HOST = find_target("host_cpu")


# /proc/cpuinfo and LLVM spell some alike, and these not.
LLVM = {"abm": "lzcnt", "bmi1": "bmi"}


def pretend(monkeypatch: pytest.MonkeyPatch, file: Path, *flags: str) -> None:
    file.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {' '.join(flags)}\n")
    monkeypatch.setattr(isa, "_CPUINFO", file)
    isa._flags.cache_clear()


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    isa._flags.cache_clear()
    yield
    monkeypatch.undo()
    isa._flags.cache_clear()


@pytest.mark.parametrize("target", PORTABLE, ids=lambda target: target.name)
def test_a_processor_has_what_the_table_says(target: CpuTarget) -> None:
    """LLVM must not use more than is asked of the machine, nor less."""
    resolved = tvm_target(target)
    for flag in ISAS[target.isa]:
        assert codegen.llvm_cpu_has_features(LLVM.get(flag, flag), resolved)
    for flag in ISAS["AVX-512"]:
        has = codegen.llvm_cpu_has_features(LLVM.get(flag, flag), resolved)
        assert has == (flag in ISAS[target.isa])
    assert not codegen.llvm_cpu_has_features("avx512vnni", resolved)


@pytest.mark.parametrize(
    ("target", "bytes_", "registers", "integers"),
    [(AVX2, 32, 16, "pairs"), (AVX512, 64, 32, "pairs")],
)
def test_kernels_do_not_depend_on_the_machine_that_compiles(
    target: CpuTarget, bytes_: int, registers: int, integers: str
) -> None:
    known = processor_of(target)
    assert known == CORES[target.cpu]
    assert (known.vector_bytes, known.registers) == (bytes_, registers)
    assert (known.lane_operands, known.fp16, known.integers) == (False, False, integers)


def test_what_this_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacking = "avx512dq"
    pretend(monkeypatch, tmp_path / "cpuinfo", *(set(ISAS["AVX-512"]) - {lacking}))
    assert missing(AVX512) == [lacking]
    with pytest.raises(ToolError, match=r"host_cpu:avx512: .* has no avx512dq; .*host_cpu:avx2"):
        require_isa(AVX512)
    require_isa(AVX2)
    require_isa(HOST)
    assert portable(HOST) == AVX2


def test_nothing_runs_without_the_instructions(
    blocks: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo")
    assert portable(HOST) is None
    if native_arch() == "x86_64":
        with pytest.raises(ToolError, match=r"has no avx, avx2, .*here host_cpu can be run"):
            BACKEND.runner_for(AVX2, FP32)
    with pytest.raises(ToolError, match=r"no avx.*--no-verify"):
        compile_model(blocks, Job(AVX2), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_widest_instructions_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo", *ISAS["AVX-512"])
    assert portable(HOST) == AVX512
    assert portable(AVX2) is None  # says itself what it is for
    assert portable(find_target("arm_cpu")) is None
    assert GPUS_BACKEND.portable(find_target("mobile_gpu:generic_opencl")) is None


def test_a_machine_that_does_not_tell_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(isa, "_CPUINFO", tmp_path / "none")
    assert portable(HOST) is None
    assert missing(AVX2) == list(ISAS["AVX2"])


@pytest.mark.parametrize("precision", [FP32, INT8], ids=str)
@pytest.mark.parametrize("target", PORTABLE, ids=lambda target: target.name)
def test_a_portable_library_computes_what_the_model_does(
    target: CpuTarget, precision: Precision, blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    if missing(target) or native_arch() != target.arch:
        pytest.skip(f"this processor has no {target.isa}")
    assert isinstance(BACKEND.runner_for(target, precision), HostRunner)
    path = tmp_path / "bundle"
    done = compile_model(blocks, Job(target, precision), path)
    assert done.verdict is not None
    assert done.verdict.passed
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["target"]["cpu"] == target.cpu
