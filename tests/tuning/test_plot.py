"""What is drawn of a search."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mbv3c.errors import UsageError
from mbv3c.tuning.database import Record
from mbv3c.tuning.plot import Curve, curves, draw


def _state(key: str, cost: float, calls: int = 1) -> Any:
    return SimpleNamespace(
        task=SimpleNamespace(key=key, name=f"kernel {key}", calls=calls), cost=cost
    )


def _record(key: str, cost: float | None, kept: bool = False) -> Record:
    return Record(key, {}, "ok" if cost else "run", cost, 100.0 if cost else None, kept)


def test_curves_fall_with_what_was_found_and_those_that_save_most_come_first() -> None:
    records = [
        _record("a", 90.0),
        _record("b", 50.0),
        _record("of another network", 1.0),
        _record("a", None),
        _record("b", 80.0),
        _record("a", 80.0),
        _record("a", 10.0, kept=True),
    ]
    whole, first, second = curves([_state("a", 100.0), _state("b", 50.0, calls=2)], records)
    assert first == Curve("kernel b", 0.5, ((0, 1.0), (2, 0.5), (4, 0.5), (5, 0.5)))
    assert second.steps == ((0, 1.0), (1, 0.9), (3, 0.9), (5, 0.8), (5, 0.8))
    assert (first.saved, second.saved) == pytest.approx((0.25, 0.1))
    assert [y for _, y in whole.steps] == pytest.approx([1.0, 0.95, 0.7, 0.7, 0.7, 0.65])


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture_is_written_whole_and_names_the_kernels(tmp_path: Path, ending: str) -> None:
    found = curves([_state("a", 100.0)], [_record("a", 90.0)])
    path = tmp_path / f"p.{ending}"
    draw(path, found, "arm_cpu:cortex-a76", "emulated")
    start = path.read_bytes()[:8]
    assert start.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    with pytest.raises(UsageError, match="exists"):
        draw(path, found, "arm_cpu:cortex-a76", "emulated")
