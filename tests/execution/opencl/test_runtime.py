"""The OpenCL runtime under TVM: copies, kernels, the Relax VM, threads, errors, counters."""

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from mbv3c.errors import ToolError
from mbv3c.execution.opencl.runtime import counters, device_info, load_runtime, profiled
from tests.execution.opencl import modules

pytestmark = pytest.mark.usefixtures("opencl")

DEVICE = tvm.device("opencl", 0)
WEIGHT = np.random.default_rng(0).standard_normal((modules.CHANNELS, modules.CLASSES), np.float32)
# Rounding of a sum of 36 numbers and of one of 4, in float32.
TOLERANCE = 1e-6


def _inputs(count: int) -> list[np.ndarray]:
    shape = (count, 1, modules.CHANNELS, modules.SIDE, modules.SIDE)
    return list(np.random.default_rng(1).standard_normal(shape, np.float32))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "classifier.so"
    return modules.export(modules.classifier(WEIGHT), path)


def _scaled(path: Path, x: np.ndarray) -> np.ndarray:
    y = tvm.runtime.empty(x.shape, str(x.dtype), DEVICE)
    modules.load(path)["scale"](tvm.runtime.tensor(x, DEVICE), y)
    return y.numpy()


# ---- the device ----


def test_device_is_described() -> None:
    info = device_info()
    assert info.platform == "Portable Computing Language"
    assert DEVICE.exist
    assert DEVICE.device_name == info.name
    assert not info.is_gpu
    assert DEVICE.max_threads_per_block >= 256
    assert DEVICE.max_shared_memory_per_block >= 32 * 1024
    assert len(DEVICE.max_thread_dimensions) == 3
    assert DEVICE.multi_processor_count >= 1
    assert DEVICE.total_global_memory > 2**28


def test_another_device_number_does_not_exist() -> None:
    assert not tvm.device("opencl", 1).exist
    with pytest.raises(ValueError, match="there is no device opencl:1"):
        tvm.runtime.empty((4,), "float32", tvm.device("opencl", 1))


def test_open_device_cannot_be_changed() -> None:
    device_info()
    load_runtime()
    load_runtime("portable computing")
    with pytest.raises(ToolError, match="already uses the OpenCL device 'Portable"):
        load_runtime("mali")


# ---- memory ----


def test_copies_in_all_directions_are_exact_and_counted() -> None:
    x = np.random.default_rng(2).integers(0, 255, 1000).astype(np.uint8)
    before = counters()
    first = tvm.runtime.tensor(x, DEVICE)
    second = tvm.runtime.empty((1000,), "uint8", DEVICE)
    first.copyto(second)
    np.testing.assert_array_equal(second.numpy(), x)
    done = counters().since(before)
    assert (done.bytes_to_device, done.bytes_on_device, done.bytes_to_host) == (1000, 1000, 1000)


def test_views_with_an_offset_copy_their_own_bytes() -> None:
    x = np.arange(64, dtype=np.float32)
    whole = tvm.runtime.tensor(x, DEVICE)
    part = whole._create_view((16,), "float32", 4 * 20)
    np.testing.assert_array_equal(part.numpy(), x[20:36])
    part.copyfrom(-x[:16])
    np.testing.assert_array_equal(whole.numpy(), np.concatenate([x[:20], -x[:16], x[36:]]))
    target = tvm.runtime.tensor(x, DEVICE)
    part.copyto(target._create_view((16,), "float32", 4 * 48))
    np.testing.assert_array_equal(target.numpy(), np.concatenate([x[:48], -x[:16]]))


def test_tensors_without_elements() -> None:
    empty = tvm.runtime.tensor(np.zeros((0, 3), np.float32), DEVICE)
    assert empty.numpy().shape == (0, 3)


def test_too_large_allocation_is_an_error_of_its_size() -> None:
    """The error crosses from the plugin, which zig built, into TVM's libraries."""
    with pytest.raises(RuntimeError, match=f"allocating {2**50} bytes on .* failed with code -"):
        tvm.runtime.empty((2**48,), "float32", DEVICE)


def test_buffers_live_until_the_kernels_that_use_them_are_done(tmp_path: Path) -> None:
    path = modules.export(modules.scale(2.0, 1 << 16), tmp_path / "scale.so")
    scale = modules.load(path)["scale"]
    x = np.arange(1 << 16, dtype=np.float32)
    results = []
    for _ in range(20):  # the input is freed while its kernel may still wait
        y = tvm.runtime.empty(x.shape, "float32", DEVICE)
        scale(tvm.runtime.tensor(x, DEVICE), y)
        results.append(y)
    for y in results:
        np.testing.assert_array_equal(y.numpy(), 2 * x)


# ---- modules ----


@pytest.mark.parametrize("memory", ["pooled", "naive"])
def test_relax_vm_computes_what_numpy_computes(classifier: Path, memory: str) -> None:
    machine = relax.VirtualMachine(modules.load(classifier), DEVICE, memory_cfg=memory)
    before = counters()
    for x in _inputs(3):
        y = machine["main"](tvm.runtime.tensor(x, DEVICE)).numpy()
        np.testing.assert_allclose(y, modules.classify(x, WEIGHT), atol=TOLERANCE)
    launches = counters().since(before).launches
    assert launches % 3 == 0
    assert launches >= 6


def test_modules_with_kernels_of_one_name_live_side_by_side(tmp_path: Path) -> None:
    x = np.arange(64, dtype=np.float32)
    paths = [modules.export(modules.scale(k), tmp_path / f"{k}.so") for k in (2.0, 3.0, 5.0)]
    loaded = [modules.load(path) for path in paths]
    for module, factor in zip(loaded, (2.0, 3.0, 5.0), strict=True):
        y = tvm.runtime.empty(x.shape, "float32", DEVICE)
        module["scale"](tvm.runtime.tensor(x, DEVICE), y)
        np.testing.assert_array_equal(y.numpy(), factor * x)


def test_function_outlives_its_module() -> None:
    source = "__kernel void f(__global float* x) { x[get_global_id(0)] += 1.0f; }"
    function = modules.from_source(source, "f", buffers=1)["f"]
    gc.collect()
    x = tvm.runtime.tensor(np.arange(6, dtype=np.float32), DEVICE)
    function(modules.buffer(x), 3, 2)
    np.testing.assert_array_equal(x.numpy(), np.arange(1, 7))
    before = counters()
    function(modules.buffer(x), 0, 2)  # of no work-groups
    assert counters().since(before).launches == 0
    with pytest.raises(TypeError, match="f takes 3 arguments, got 2"):
        function(modules.buffer(x), 3)


def test_kernel_that_does_not_compile_is_named_with_its_log() -> None:
    function = modules.from_source("__kernel void f() { nonsense; }", "f", buffers=0)["f"]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"kernel f does not compile for [^$]*nonsense"):
            function(1, 1)


def test_loaded_module_tells_its_source(tmp_path: Path) -> None:
    path = modules.export(modules.scale(7.0), tmp_path / "scale.so")
    (imported,) = modules.load(path).imports
    assert imported.kind == "opencl"
    assert "__kernel void scale_kernel(" in imported.inspect_source()


def test_kernel_refuses_a_tensor_with_an_offset(tmp_path: Path) -> None:
    scale = modules.load(modules.export(modules.scale(2.0), tmp_path / "scale.so"))["scale"]
    x = tvm.runtime.tensor(np.arange(128, dtype=np.float32), DEVICE)
    y = tvm.runtime.empty((64,), "float32", DEVICE)
    with pytest.raises(ValueError, match="byte_offset"):
        scale(x._create_view((64,), "float32", 256), y)


def test_oversized_work_group_is_named_with_its_numbers(tmp_path: Path) -> None:
    path = modules.export(modules.wide(1 << 16), tmp_path / "wide.so")
    x = tvm.runtime.tensor(np.zeros(1 << 16, np.float32), DEVICE)
    with pytest.raises(RuntimeError, match=r"launching wide_kernel over 65536x1x1 .*65536x1x1"):
        modules.load(path)["wide"](x)


def test_module_for_another_runtime_is_refused() -> None:
    load_bytes = tvm.get_global_func("ffi.Module.load_from_bytes.opencl")
    with pytest.raises(ValueError, match="hold source"):
        load_bytes(b"\x05\0\0\0\0\0\0\0spirv")
    with pytest.raises(ValueError, match="truncated"):
        load_bytes(b"\x02\0\0\0\0\0\0\0cl\x01\0\0\0\0\0\0\0")


def test_threads_share_the_device(classifier: Path) -> None:
    """One module and its kernels, several machines at once; every result is its own input's."""
    module = modules.load(classifier)
    failures: list[str] = []

    def work(seed: int) -> None:
        machine = relax.VirtualMachine(module, DEVICE)
        rng = np.random.default_rng(seed)
        for _ in range(25):
            x = rng.standard_normal((1, modules.CHANNELS, 6, 6), np.float32)
            y = machine["main"](tvm.runtime.tensor(x, DEVICE)).numpy()
            if not np.allclose(y, modules.classify(x, WEIGHT), atol=TOLERANCE):
                failures.append(f"thread {seed}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- times ----


def test_profile_has_every_kernel_of_the_block_and_only_those(classifier: Path) -> None:
    machine = relax.VirtualMachine(modules.load(classifier), DEVICE)
    x = tvm.runtime.tensor(_inputs(1)[0], DEVICE)
    machine["main"](x)
    before = counters()
    with profiled() as times:
        for _ in range(3):
            machine["main"](x)
    machine["main"](x)
    launches = counters().since(before).launches
    assert sum(one.launches for one in times) == launches * 3 // 4
    assert all(one.nanoseconds > 0 for one in times)
    assert len({one.kernel for one in times}) == len(times) >= 2
    with profiled() as times:
        pass
    assert times == []
