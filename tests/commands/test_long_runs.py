"""A process that goes on for long keeps its memory and its files, and threads share a library."""

from pathlib import Path

import mbv3c
from benchmarks.long_runs import long_runs

_NOISE = 1 << 20  # of what allocators keep
_OPENED, _LIBRARY = 100, 80 << 10  # times, and bytes that each would leave at the least


def test_nothing_grows_and_eight_threads_get_the_right_answers(host_bundle: Path) -> None:
    bundle = mbv3c.open_bundle(host_bundle)
    parts = {part.name: part for part in long_runs(bundle, 2_000, _OPENED, 1)}
    for part in parts.values():
        assert part.marks[-1].files == part.marks[0].files, part
    assert (bundle.path / "model.so").stat().st_size > _LIBRARY
    assert _OPENED * _LIBRARY > 4 * _NOISE
    for name in ("inferences", "inferences, 8 threads at once", "`mbv3c.run`, one after another"):
        assert parts[name].growth < _NOISE, parts[name]
