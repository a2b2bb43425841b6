"""Which points no other one beats, and how they are shown."""

from pathlib import Path

import pytest

from mbv3c.accuracy.tally import Interval
from mbv3c.errors import UsageError
from mbv3c.search.front import (
    ACCURACY,
    Axis,
    Point,
    dominates,
    draw_front,
    front,
    front_json,
    front_table,
)

CYCLES, MEMORY = Axis("cycles", "cycles"), Axis("memory", "memory, KiB", scale=1 / 1024)
AXES = (ACCURACY, CYCLES)


def point(name: str, accuracy: float, cycles: float, **others: float) -> Point:
    return Point(name, {"accuracy": accuracy, "cycles": cycles, **others})


A, B, C, D = (
    point("a", 0.80, 100),
    point("b", 0.85, 200),
    point("c", 0.84, 250),  # b is better and cheaper
    point("d", 0.90, 900),
)


def test_nowhere_worse_and_somewhere_better() -> None:
    assert dominates(B, C, AXES)
    assert not dominates(C, B, AXES)
    assert not dominates(A, B, AXES)
    assert not dominates(A, A, AXES)
    assert dominates(point("", 0.8, 99), A, AXES)
    assert dominates(point("", 0.81, 100), A, AXES)


def test_the_front_is_in_the_order_of_cost() -> None:
    assert front([D, C, B, A], AXES) == [A, B, D]


def test_points_of_equal_values_are_all_on_it() -> None:
    twin = point("twin", 0.80, 100)
    assert front([twin, A], AXES) == [A, twin]


def test_a_third_axis_keeps_what_two_would_not() -> None:
    small = point("small", 0.70, 300, memory=10)
    large = point("large", 0.75, 290, memory=20)
    assert front([small, large], AXES) == [large]
    assert front([small, large], (*AXES, MEMORY)) == [small, large]


def test_a_value_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="a has no 'memory'"):
        front([A, B], (ACCURACY, MEMORY))


def test_the_table_has_the_cheapest_first_and_stars() -> None:
    interval = {"accuracy": Interval(0.84, 0.83, 0.855)}
    shown = Point("c", {**C.values, "memory": 2048}, "width", interval)
    lines = front_table([D, shown, B, A], (*AXES, MEMORY))
    assert [line.split()[:2] for line in lines[1:]] == [
        ["*", "a"],
        ["*", "b"],
        ["c", "width"],
        ["*", "d"],
    ]
    assert lines[0].split() == ["network", "accuracy,", "%", "cycles", "memory,", "KiB"]
    assert "84.00 (83.00 to 85.50)" in lines[3]
    assert lines[3].endswith("  2")
    assert lines[1].endswith("  -")
    assert lines[4].split()[-2:] == ["900", "-"]


def test_a_table_too_wide_for_a_terminal_goes_on_below() -> None:
    wide = front_table([A, B], (*AXES, MEMORY))
    lines = front_table([A, B], (*AXES, MEMORY), width=38)
    assert lines == [
        "   network    accuracy, %  cycles",
        "*  a                80.00     100",
        "*  b                85.00     200",
        "   network    memory, KiB",
        "*  a                    -",
        "*  b                    -",
    ]
    longest = max(map(len, wide))
    assert front_table([A, B], (*AXES, MEMORY), width=longest) == wide
    assert len(front_table([A, B], (*AXES, MEMORY), width=longest - 1)) == 6
    assert len(front_table([A, B], (*AXES, MEMORY), width=1)) == 9


def test_json_says_what_is_on_the_front() -> None:
    document = front_json([A, B, C], AXES)
    assert [each["on_front"] for each in document] == [True, True, False]
    assert document[0]["values"] == {"accuracy": 0.80, "cycles": 100}


def test_the_picture_has_every_point_and_the_front(tmp_path: Path) -> None:
    searched = Point("n1", A.values, "searched", {"accuracy": Interval(0.80, 0.79, 0.82)})
    draw_front(tmp_path / "a.svg", [searched, B, C, D], AXES, "a front")
    text = (tmp_path / "a.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("a front", "n1", "b", "c", "d", "searched"))
