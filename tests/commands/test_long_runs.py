"""A process that goes on for long keeps its memory and its files, and threads share a library."""

import mmap
from pathlib import Path

import mbv3c
from benchmarks.long_runs import long_runs, watched

_LEAST_LEAK = 600  # bytes in each inference, where no memory is free that it may take first
_TIMES = 2_000
_OPENED, _LIBRARY = 100, 80 << 10  # times, and bytes that each would leave at the least


def _would_leak(times: int, each: int) -> int:
    """Return the bytes that would be lost between two marks, of which there are four."""
    return times // 5 * each


def test_nothing_grows_and_eight_threads_get_the_right_answers(host_bundle: Path) -> None:
    bundle = mbv3c.open_bundle(host_bundle)
    parts = {part.name: part for part in long_runs(bundle, _TIMES, _OPENED, 1)}
    for part in parts.values():
        assert part.marks[-1].files == part.marks[0].files, part
    assert (bundle.path / "model.so").stat().st_size > _LIBRARY
    for name, times, each in (
        ("inferences", _TIMES, _LEAST_LEAK),
        ("inferences, 8 threads at once", _TIMES, _LEAST_LEAK),
        ("`mbv3c.run`, one after another", _OPENED, _LIBRARY),
    ):
        assert parts[name].least_growth < _would_leak(times, each), parts[name]


def test_a_leak_is_seen() -> None:
    kept = list[mmap.mmap]()

    def leak() -> None:
        kept.append(mmap.mmap(-1, mmap.PAGESIZE))  # not of the memory that is free already
        kept[-1][0] = 1

    part = watched("a leak", _TIMES, leak)
    assert part.least_growth > _would_leak(_TIMES, _LEAST_LEAK)
