"""What the kernels are told about the processors."""

from dataclasses import replace

import pytest
from tvm.target import codegen

from mbv3c.errors import UsageError
from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.execution.processes import finish
from mbv3c.job import Job
from mbv3c.precision import BF16, FP16, FP32, INT8, Precision
from mbv3c.targets import find_target
from mbv3c.targets.cpu import cores
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.cores import CORES, SCHEDULING_MODELS, Processor, processor_of
from mbv3c.targets.cpu.devices import CPUS, CpuTarget
from mbv3c.targets.library.building import target_of
from mbv3c.targets.library.target import LibraryTarget, resolve, tvm_target

ARM = [target for target in CPUS if target.family == "arm_cpu" and target.has_runtime]
OTHERS = [target for target in CPUS if not target.has_runtime]


@pytest.mark.parametrize("target", ARM, ids=lambda target: target.name)
def test_every_arm_core_is_known(target: CpuTarget) -> None:
    known = processor_of(target)
    core = replace(CORES[target.cpu], cores=target.cores)
    assert known == (replace(core, integers="neon") if "dotprod" in target.without else core)
    assert (known.vector_bytes, known.registers, known.lane_operands) == (16, 32, True)
    assert target.cpu in SCHEDULING_MODELS


@pytest.mark.parametrize("target", OTHERS, ids=lambda target: target.name)
def test_llvm_has_the_cores_without_a_runtime_and_what_kernels_use(target: CpuTarget) -> None:
    compiled = tvm_target(target)
    assert target.cpu in codegen.llvm_get_cpu_archlist(compiled)
    features = set(codegen.llvm_get_cpu_features(compiled))
    found = processor_of(target)
    assert found.vector_bytes * 8 == (256 if "zvl256b" in features else 128)
    assert {"neon", "v"} & features
    assert not {"zicond", "vmlx-hazards", "expand-fp-mlx"} & features
    assert found.registers == (16 if "neon" in features else 32)
    assert not found.fp16


# LLVM's second names of cores, which its list leaves out.
ALIASES = {"apple-m1": "apple-a14"}


@pytest.mark.parametrize("target", ARM, ids=lambda target: target.name)
def test_llvm_has_the_core_and_what_kernels_use(target: CpuTarget) -> None:
    compiled = tvm_target(target)
    name = ALIASES.get(target.cpu, target.cpu)
    assert name in codegen.llvm_get_cpu_archlist(compiled)
    has = [
        set(codegen.llvm_get_cpu_features(tvm_target(one)))
        for one in (target, replace(target, cpu=name))
    ]
    assert has[0] - {target.cpu, name} == has[1] - {target.cpu, name}
    found = processor_of(target)
    assert found.fp16 == ("fullfp16" in has[0])
    options = [name for name in ("i8mm", "dotprod") if name in has[0]]
    assert found.integers == [*options, "neon"][0]
    assert not has[0] & {"sve", "bf16"}
    assert found.bf16 == ("bf16" in codegen.llvm_get_cpu_features(tvm_target(_in_bfloats(target))))


def test_every_scheduling_model_is_one_of_llvm_mca(llvm: Llvm) -> None:
    known = finish([*llvm.mca, "-mtriple=aarch64", "-mcpu=help"], timeout=60).stderr
    for model in SCHEDULING_MODELS.values():
        assert f" {model} " in known


@pytest.mark.parametrize("precision", [FP16, BF16], ids=str)
@pytest.mark.parametrize("target", ARM, ids=lambda target: target.name)
def test_a_precision_that_the_core_does_not_compute_in_is_refused(
    target: CpuTarget, precision: Precision
) -> None:
    def has(processor: Processor) -> bool:
        return processor.fp16 if precision == FP16 else processor.bf16

    BACKEND.check_precision(target, FP32)
    if has(CORES[target.cpu]):
        BACKEND.check_precision(target, precision)
        return
    with pytest.raises(
        UsageError, match=f"{target.name} does not .* in {precision}; these do: (.*);"
    ) as e:
        BACKEND.check_precision(target, precision)
    able = str(e.value).split(": ", 1)[1].split("; ")[0].split(", ")
    assert able[0] == f"arm_cpu:cortex-{'a76' if precision == FP16 else 'a510'}"
    assert able[-1].endswith(" and more")
    assert all(has(processor_of(find_target(one.split()[0]))) for one in able)


def test_bfloat16_is_no_precision_of_x86() -> None:
    for name in ("host_cpu", "host_cpu:avx512"):
        with pytest.raises(UsageError, match="does not compute in bf16; these do: arm_cpu"):
            BACKEND.check_precision(find_target(name), BF16)


def _in_bfloats(target: CpuTarget) -> LibraryTarget:
    """Return a target with what --precision bf16 needs; other libraries do without."""
    assert target_of(Job(target, INT8)) == target
    return target_of(Job(target, BF16))


@pytest.mark.parametrize(("name", "able"), [("znver4", False), ("sapphirerapids", True)])
def test_half_precision_of_an_x86_core(name: str, able: bool) -> None:
    target = replace(find_target("host_cpu"), cpu=name, arch="x86_64", triple="x86_64-linux-gnu")
    assert processor_of(target).fp16 == able


@pytest.mark.parametrize(
    ("name", "vector_bytes", "registers", "integers"),
    [
        ("x86-64", 16, 16, "portable"),
        ("haswell", 32, 16, "pairs"),
        ("znver3", 32, 16, "pairs"),
        ("alderlake", 32, 16, "vnni"),
        ("znver4", 64, 32, "vnni"),
        ("knl", 64, 32, "portable"),
        ("skylake-avx512", 64, 32, "pairs"),
    ],
)
def test_an_x86_core_is_what_llvm_says_it_is(
    name: str, vector_bytes: int, registers: int, integers: str
) -> None:
    target = replace(find_target("host_cpu"), cpu=name, arch="x86_64", triple="x86_64-linux-gnu")
    found = processor_of(target)
    assert (found.vector_bytes, found.registers) == (vector_bytes, registers)
    assert found.integers == integers
    assert not found.lane_operands
    assert found.partial_cost == (0.5 if name == "znver4" else 1.0)


def test_another_arm_core_has_neon() -> None:
    target = replace(find_target("arm_cpu"), cpu="cortex-x2", cores=3)
    found = processor_of(target)
    assert (found.vector_bytes, found.lane_operands, found.cores) == (16, True, 3)


def test_this_machine() -> None:
    target = resolve(find_target("host_cpu"))
    found = processor_of(target)
    assert found.cores == target.cores == 1
    assert found.vector_bytes in (16, 32, 64)
    assert 8 << 10 <= found.l1_bytes <= found.l2_bytes


def test_caches_that_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_CACHES", cores._CACHES / "none")
    target = resolve(find_target("host_cpu"))
    found = processor_of(target)
    assert (found.l1_bytes, found.l2_bytes) == (32 << 10, 512 << 10)


def test_lanes() -> None:
    neon = CORES["cortex-a76"]
    assert [neon.lanes(dtype) for dtype in ("float32", "float16", "int64")] == [4, 8, 2]


def test_small_kernels_do_not_wake_other_cores() -> None:
    several = replace(CORES["cortex-a76"], cores=4, parallel_madds=1000)
    assert [several.worthwhile(madds) for madds in (999, 1000)] == [False, True]
    assert not replace(several, cores=1).worthwhile(10**9)
