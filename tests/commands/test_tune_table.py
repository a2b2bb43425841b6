"""The table of a search under way."""

import io

from rich.console import Console

from mbv3c.commands.tune_table import LiveTable


def _start(**changes: object) -> dict[str, object]:
    tasks = [
        {"task": f"k{at}", "calls": at + 1, "measured": 1, "legal": 50, "cost": None, "best": 1.0}
        for at in range(3)
    ]
    given = {"event": "start", "unit": "us", "trials": 100, "seconds": None, "tasks": tasks}
    return {**given, **changes}


def _batch(task: str, cost: float, best: float, **changes: object) -> dict[str, object]:
    given = {"event": "batch", "task": task, "kind": "pointwise", "measured": 13, "legal": 50}
    rest = {"cost": cost, "trials": 25, "best": best, "network": 0.9, "failures": {"wrong": 2}}
    return {**given, **rest, **changes}


def _drawn(board: LiveTable, height: int = 30, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as captured:
        console.print(board.draw(height))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_costly_kernels_come_first_with_their_gain_and_share() -> None:
    board = LiveTable(now=lambda: 0.0)
    board.learn(_start())
    board.learn(_batch("k0", 300.0, 1.0))
    board.learn(_batch("k2", 200.0, 0.5))
    _, _, first, second, third, foot, *_ = _drawn(board)
    assert first.split() == ["k0", "1", "13/50", "300", "1.000", "50.0%"]
    assert second.split() == ["k2", "3", "13/50", "200", "0.500", "50.0%", "50.0%"]
    assert third.split() == ["k1", "2", "1/50"]
    assert "25 of 100 candidates; failed: 2 wrong" in foot
    assert "whole network estimated 0.900 of the default" in foot


def test_on_a_narrow_terminal_only_names_are_cut() -> None:
    board = LiveTable(now=lambda: 0.0)
    name = "features.12.depthwise.conv and 11 more kernels of the network"
    task = {"task": name, "calls": 12, "measured": 1, "legal": 1500, "cost": None, "best": 1.0}
    board.learn(_start(unit="estimated cycles", tasks=[task]))
    board.learn(_batch(name, 12_345_678.0, 0.8714, measured=123))
    lines = _drawn(board, width=80)
    assert max(map(len, lines[:3])) <= 80
    cut, *figures = lines[2].rsplit(maxsplit=6)
    assert figures == ["12", "123/1500", "12,345,678", "0.871", "12.9%", "100.0%"]
    assert cut.strip().endswith("…") and cut.startswith("features.12")


def test_what_does_not_fit_the_terminal_is_counted() -> None:
    board = LiveTable(now=lambda: 0.0)
    board.learn(_start())
    assert "and 2 kernels more" in _drawn(board, height=7)


def test_time_left_is_that_of_the_smaller_budget() -> None:
    now = [0.0]
    board = LiveTable(now=lambda: now[0])
    board.learn(_start(seconds=600.0))
    now[0] = 50.0
    assert board.left() == 550.0
    board.learn(_batch("k0", 1.0, 1.0))
    assert board.left() == 150.0
    board.learn(_start(trials=None))
    assert board.left() is None


def test_other_events_are_said_in_words() -> None:
    board = LiveTable(now=lambda: 0.0)
    board.learn(_start())
    board.learn({"event": "network"})
    assert _drawn(board)[-1] == "measuring the whole network, before and after"
