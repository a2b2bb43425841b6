"""Rates and roofs of profiles: computed by hand."""

import pytest

from mbv3c.lowering.describe import KernelRecord, LifetimeRecord, MemoryRecord
from mbv3c.report.documents import Bench, BenchKernel, EstimatedCycles
from mbv3c.report.memory import peak_of
from mbv3c.report.roofline import Roofs, profile_of, roofline_picture
from mbv3c.target import Limits

PI = Limits(8, 32, 4, 32, 2400, 17.1, "Raspberry Pi 5", "a source")


def kernel(name: str, size: int) -> KernelRecord:
    return KernelRecord(name, "pointwise", ("n",), 1000, size, {}, None, ())


def bench(*kernels: BenchKernel, cycles: bool = False, threads: int = 1) -> Bench:
    estimated = EstimatedCycles(1.0, "a model") if cycles else None
    return Bench("b", "cpu", threads, False, {}, estimated_cycles=estimated, kernels=kernels)


def test_time_is_billions_a_second() -> None:
    measured = bench(BenchKernel("a", "p", ("n",), 1000, 1.0, us=0.5), threads=4)
    profile = profile_of(measured, [kernel("a", 500)], PI)
    (row,) = profile.rows
    assert (row.intensity, row.rate) == (2.0, 2.0)
    assert profile.roofs is not None
    assert profile.roofs.peak == pytest.approx(8 * 2.4 * 4)
    assert dict(profile.roofs.slopes)["memory of Raspberry Pi 5"] == 17.1


def test_cycles_are_of_one_core_and_calls_of_a_kernel_are_summed() -> None:
    one = BenchKernel("a", "p", ("n",), 2000, 1.0, calls=2, instructions=900, estimated_cycles=400)
    profile = profile_of(bench(one, cycles=True), [kernel("a", 500), kernel("a", 300)], PI)
    (row,) = profile.rows
    assert (row.bytes, row.intensity, row.rate) == (800, 2.5, 5.0)
    assert profile.roofs == Roofs(8, (("level-1 cache", 32), (PI_MEMORY, 7.125)))
    assert profile.roofs.over(0.125) == 4.0 and profile.roofs.over(100.0) == 8


PI_MEMORY = "memory of Raspberry Pi 5"


def test_instructions_have_roofs_of_their_own() -> None:
    one = BenchKernel("a", "p", ("n",), 2000, 1.0, calls=1, instructions=1000)
    profile = profile_of(bench(one), [kernel("a", 500)], PI)
    assert profile.rows[0].rate == 2.0
    assert profile.roofs == Roofs(4, (("loads", 32),))


def test_times_need_a_clock_to_have_roofs() -> None:
    one = BenchKernel("a", "p", ("n",), 1000, 1.0, us=0.5)
    profile = profile_of(bench(one), [kernel("a", 500)], Limits(128, 48, 32, 32))
    assert profile.roofs is None and "the clock and the memory" in profile.no_roofs


def test_what_is_not_known_is_not_drawn() -> None:
    elsewhere = BenchKernel("elsewhere", "elsewhere", (), 0, 1.0, calls=0, instructions=10)
    profile = profile_of(bench(elsewhere), [kernel("a", 500)], None)
    assert profile.rows[0].intensity is None
    assert "not in mbv3c's tables" in profile.no_roofs
    assert roofline_picture(profile, "roofline") is None


def test_the_peak_is_the_first_call_at_which_most_is_alive() -> None:
    lives = [("a", 0, 10, 0, 1), ("b", 1, 20, 1, 3), ("c", 0, 10, 2, 3), ("d", 2, 1, 3, 4)]
    values = tuple(LifetimeRecord(*each) for each in lives)
    peak = peak_of(MemoryRecord(0, 40, 31, (10, 20, 1), values))
    assert (peak.call, peak.bytes) == (3, 31)
    assert [value.value for value in peak.values] == ["b", "c", "d"]
    assert peak_of(MemoryRecord(0, 0, 0, (), ())).bytes == 0
