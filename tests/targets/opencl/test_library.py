"""OpenCL C: what is made of TVM's text, and that it still means the same."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from mbv3c.execution.opencl.runtime import load_runtime
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.unchecked import without_checks
from mbv3c.passes import run_pipeline
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets import find_target
from mbv3c.targets.library.target import resolve
from mbv3c.targets.opencl import backend as opencl
from mbv3c.targets.opencl.backend import lower_for_gpu
from mbv3c.targets.opencl.devices import GpuTarget
from mbv3c.targets.opencl.gpus import GPUS

HERE = resolve(replace(find_target("mobile_gpu:generic_opencl"), gpu="mali"))


@pytest.fixture(autouse=True)
def _without_checks() -> Iterator[None]:
    with without_checks():
        yield


@cache
def lowered(spec: ModelSpec, precision: Precision = FP32) -> Lowered:
    model = run_pipeline(build_model(spec))[0]
    return lower_for_gpu(model, GPUS[HERE.gpu].gpu, opencl.tvm_target(HERE), Job(HERE, precision))


TINY = ModelSpec("small", width=0.35, resolution=96, classes=11)


def test_readable_leaves_declarations_of_others_out() -> None:
    source = """#define A 1
__kernel void f(__global float* x);
__kernel void g(__global float* y);
// Function: f
__kernel void f(__global float* x) {
  x[0] = 1;
}"""
    assert opencl.readable(source).count("__kernel void") == 1
    assert "#define A 1" in opencl.readable(source)


def test_readable_names_positions_once_per_kernel() -> None:
    line = "  x[((convert_int(get_group_id(0))) * 4) + (convert_int(get_local_id(1)))] = 1;"
    kernel = f"__kernel void f(__global float* x) {{\n{line}\n{line}\n}}"
    found = opencl.readable(f"{kernel}\n{kernel.replace(' f(', ' g(')}").splitlines()
    assert found.count("  const int group_x = convert_int(get_group_id(0));") == 2
    assert found.count("  const int local_y = convert_int(get_local_id(1));") == 2
    assert found.count("  x[(group_x * 4) + local_y] = 1;") == 4
    body = found.index("  x[(group_x * 4) + local_y] = 1;")
    assert {"group_x", "local_y"} == {line.split()[2] for line in found[1:body]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("((float4)(a[1], a[1], a[1], a[1]))", "((float4)(a[1]))"),
        ("((half2)(v, v))", "((half2)(v))"),
        ("((float4)(a, a, a, b))", "((float4)(a, a, a, b))"),
        ("((float4)(a, b, a, b))", "((float4)(a, b, a, b))"),
    ],
)
def test_readable_shortens_vectors_of_one_number_only(before: str, after: str) -> None:
    assert opencl.readable(f"x = {before};") == f"x = {after};"


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
def test_readable_keeps_every_bit(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same network from TVM's own text and from ours, on the same device."""
    load_runtime()
    program = lowered(TINY, precision)
    sources = opencl.build(program.module, HERE, tmp_path / "ours.so")
    with monkeypatch.context() as patch:
        patch.setattr(opencl, "readable", lambda source: source)
        raw = opencl.build(program.module, HERE, tmp_path / "raw.so")
    assert raw.keys() == sources.keys()
    assert sum(map(len, raw.values())) > 2 * sum(map(len, sources.values()))
    device = tvm.opencl(0)
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    results = []
    for name in ("ours", "raw"):
        library = tvm.runtime.load_module(str(tmp_path / f"{name}.so"))
        main = relax.VirtualMachine(library, device)["main"]
        results.append(main(tvm.runtime.tensor(x, device)).numpy())
    np.testing.assert_array_equal(*results)
    assert np.ptp(results[0]) > 0


def test_sources_are_one_kernel_each(tmp_path: Path) -> None:
    program = lowered(TINY)
    sources = opencl.build(program.module, HERE, tmp_path / "model.so")
    assert set(sources) == {f"{name}_kernel" for name in program.kernels}
    for name, source in sources.items():
        assert re.findall(r"__kernel void (\w+)\(", source) == [name]
        assert "convert_int(get_" not in source.split("{", 1)[1].split(";\n  ", 8)[-1]
    loaded = tvm.runtime.load_module(str(tmp_path / "model.so"))
    assert opencl.kernel_sources(loaded) == sources
    text = opencl.format_sources(sources)
    assert all(f"// {name}\n{source}\n" in text for name, source in sources.items())
    shipped = (tmp_path / "model.so").read_bytes()
    assert opencl.is_text_of(text, program.kernels, shipped)
    first = next(iter(sources))
    others = {name: source for name, source in sources.items() if name != first}
    for wrong in (
        text.replace("float", "half", 1),
        text.replace(f"// {first}", "// other_kernel", 1),
        "// x\n" + text,
        opencl.format_sources(others),
        opencl.format_sources({**sources, first: ""}),
    ):
        assert not opencl.is_text_of(wrong, program.kernels, shipped)


def test_a_library_of_the_cpu_has_no_kernels(tmp_path: Path) -> None:
    module = tvm.runtime.load_module
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(x + x))
    tvm.compile(builder.get(), target="llvm").export_library(str(tmp_path / "cpu.so"))
    assert opencl.kernel_sources(module(str(tmp_path / "cpu.so"))) == {}


@pytest.mark.parametrize("target", ["mali", "adreno"])
def test_the_text_of_small_is_short(target: str, tmp_path: Path) -> None:
    """TVM's own, with each kernel declaring all others, grows with the square of their number."""
    program = lowered(ModelSpec("small"))
    sources = opencl.build(program.module, replace(HERE, gpu=target), tmp_path / "model.so")
    assert sum(map(len, sources.values())) < 200_000


@pytest.mark.parametrize(
    "target",
    [
        find_target("mobile_gpu:mali"),
        find_target("mobile_gpu:mali-bifrost-android"),
        find_target("mobile_gpu:adreno"),
        find_target("mobile_gpu:generic_opencl"),
    ],
    ids=lambda target: target.device,
)
def test_tvm_is_told_the_devices_limits(target: GpuTarget) -> None:
    """Its schedules read one name of the work-group's size, and other parts of it the other."""
    made = opencl.tvm_target(resolve(target))
    gpu = GPUS[target.gpu].gpu
    assert made.attrs["max_num_threads"] == gpu.group_items
    assert made.attrs["max_threads_per_block"] == gpu.group_items
    assert made.attrs["max_shared_memory_per_block"] == gpu.local_bytes
    assert made.attrs["thread_warp_size"] == gpu.warp
    assert made.host.attrs["mtriple"] == resolve(target).triple


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
def test_metal_is_generated_and_linked(precision: Precision, tmp_path: Path) -> None:
    """Nothing here compiles Metal: what is shown is the text, and that the library is Mach-O."""
    metal = find_target("mobile_gpu:metal")
    model = run_pipeline(build_model(TINY))[0]
    gpu = GPUS["metal"].gpu
    network = lower_for_gpu(model, gpu, opencl.tvm_target(metal), Job(metal, precision))
    library = tmp_path / "model.so"
    sources = opencl.build(network.module, metal, library)
    assert set(sources) == {f"{name}_kernel" for name in network.kernels}
    gates = [text for name, text in sources.items() if name.startswith("gates")]
    assert gates
    for text in gates:
        assert text.count("threadgroup_barrier(mem_flags(1));") == 2
    for text in sources.values():
        assert text.count("kernel void") == 1
        assert not re.search(r"vload|vstore|get_group_id|__global|convert_", text)
    magic, arm64 = library.read_bytes()[:4], library.read_bytes()[4:8]
    assert (magic, arm64) == (bytes.fromhex("cffaedfe"), bytes.fromhex("0c000001"))
    for text in sources.values():
        assert text.encode() in library.read_bytes()
