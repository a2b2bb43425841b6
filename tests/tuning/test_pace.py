"""When a search stops, so that what must follow it is within the time."""

from itertools import count

import pytest

from mbv3c.tuning.pace import FINALISTS, Budget, Pace


def paced(seconds: float | None, passed: float = 0.0, slots: int = 1) -> Pace:
    """Return a pace of two seconds for each candidate, after some time."""
    pace = Pace(Budget(seconds=seconds, begun=0.0, now=lambda: passed), slots)
    pace.held(13, 26.0)
    return pace


def test_the_first_batch_is_always_measured() -> None:
    fresh = Pace(Budget(seconds=1e-3, begun=0.0, now=lambda: 9.0), 1)
    assert fresh.is_time_for(12, 0, 50)
    assert fresh.budget.spent
    assert fresh.finals(4, 50) == 4


@pytest.mark.parametrize(
    ("finals", "kernels", "slots", "needed"),
    [(0, 0, 1, 26), (3, 0, 1, 26 + 24), (3, 0, 2, 26 + 12), (3, 10, 1, 26 + 24 + 40)],
)
def test_a_batch_must_leave_time_for_contests_and_the_network(
    finals: int, kernels: int, slots: int, needed: float
) -> None:
    assert FINALISTS == 3
    assert paced(needed + 0.1, slots=slots).is_time_for(12, finals, kernels)
    assert not paced(needed - 0.1, slots=slots).is_time_for(12, finals, kernels)
    assert not paced(needed + 0.1, 0.2, slots).is_time_for(12, finals, kernels)


def test_as_many_last_contests_as_there_is_time_for_and_one_at_least() -> None:
    assert paced(100.0).finals(9, 10) == 7  # 8 s each, and 40 for the network
    assert paced(100.0).finals(2, 10) == 2
    assert paced(1.0).finals(9, 10) == 1
    assert paced(None).finals(9, 10) == 9


def test_without_a_limit_there_is_always_time() -> None:
    assert paced(None).is_time_for(12, 50, 50)
    assert not Budget(trials=3).spent


def test_time_begins_with_the_budget() -> None:
    clock = count()
    budget = Budget(seconds=2.0, begun=0.0, now=lambda: float(next(clock)))
    assert [budget.spent for _ in range(4)] == [False, False, True, True]
