from dataclasses import replace

from mbv3c.lowering.describe import KernelRecord, LifetimeRecord, MemoryRecord
from mbv3c.targets.library.report import kernel_lines, memory_lines

KERNELS = (
    KernelRecord("pointwise_1", "pointwise", ("a", "b"), 1200, 4096, {"rows": 6}, None, ()),
    KernelRecord("transpose_1", "transpose", (), 0, 2048, {}, None, ()),
    KernelRecord(
        "fallback_1", "fallback", ("resize",), 0, 1024, {"operator": "resize2d"}, None, ()
    ),
    KernelRecord("fallback_2", "fallback", ("resize",), 0, 1024, {}, None, ()),
)
MEMORY = MemoryRecord(
    weight_bytes=5000,
    arena_bytes=1300,
    arena_lower_bound=1000,
    arena_blocks=(1000, 300),
    values=(LifetimeRecord("x", block=1, bytes=256, first=2, last=5),),
)


def test_kernels_and_what_fell_back() -> None:
    lines = kernel_lines(KERNELS)
    assert lines[1].split() == ["pointwise_1", "1,200", "4", "a,", "b", "[rows", "6]"]
    assert "(layout)" in lines[2]
    assert lines[-2].split() == ["total", "1,200", "in", "4", "calls"]
    assert lines[-1].endswith("general schedule: resize")


def test_tuned_kernels_are_marked() -> None:
    tuned = [replace(kernel, origin="tuned") for kernel in KERNELS[:1]]
    by_rule = [replace(kernel, origin="default") for kernel in KERNELS[:1]]
    assert kernel_lines(tuned)[1].endswith("a, b [rows 6; tuned]")
    assert kernel_lines(by_rule)[1].endswith("a, b [rows 6]")


def test_nothing_is_said_of_fallbacks_without_one() -> None:
    assert "general schedule" not in "\n".join(kernel_lines(KERNELS[:2]))


def test_memory() -> None:
    lines = memory_lines(MEMORY)
    assert "1,300 bytes in 2 blocks, 1.30 times" in lines[1]
    assert lines[-1].split() == ["256", "1", "2-5", "x"]


def test_memory_of_a_network_without_values() -> None:
    lines = memory_lines(replace(MEMORY, arena_bytes=0, arena_lower_bound=0, values=()))
    assert "1.00 times" in lines[1]
