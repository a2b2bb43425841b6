import pytest

from mbv3c.errors import UsageError
from mbv3c.search.budget import Budget, check_time, limits, parse_budgets, said, within

FIRST = {"cycles": 2e6, "memory": 400 << 10, "weights": 1 << 20, "parameters": 1e6}


@pytest.mark.parametrize(
    ("text", "resource", "amount", "relative"),
    [
        ("0.7x", "time", 0.7, True),
        ("2.5ms", "us", 2500, False),
        ("90 us", "us", 90, False),
        ("1.2Mcycles", "cycles", 1.2e6, False),
        ("3e5cycles", "cycles", 3e5, False),
        ("800kinstructions", "instructions", 8e5, False),
        ("300KiB", "memory", 300 * 1024, False),
        ("weights=300KiB", "weights", 300 * 1024, False),
        ("weights=0.5x", "weights", 0.5, True),
        ("parameters=1.2M", "parameters", 1.2e6, False),
        ("2Mparams", "parameters", 2e6, False),
        ("50Mmadds", "multiply_adds", 5e7, False),
        ("memory=0.8x", "memory", 0.8, True),
    ],
)
def test_what_people_write(text: str, resource: str, amount: float, relative: bool) -> None:
    (budget,) = parse_budgets([text])
    assert budget == Budget(resource, pytest.approx(amount), relative, text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fast"], "'fast' is none; write one like 0.7x"),
        (["0x"], "must be above 0"),
        (["1.5x"], "every model takes 1x of itself"),
        (["3parsecs"], "unknown unit 'parsecs'"),
        (["7"], "a number without a unit"),
        (["flops=0.5x"], "unknown resource; known: time, .*, weights, clocks, "),
        (["memory=3ms"], "memory is not counted in ms"),
        (["cycles=3KiB"], "cycles is not counted in KiB"),
        (["300KiB", "0.7x,memory=0.5x"], "memory twice"),
        ([""], "is empty"),
    ],
)
def test_what_is_none(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_budgets(texts)


def test_limits_of_a_network() -> None:
    found = limits(parse_budgets(["0.5x, 300KiB", "weights=0.9x"]), FIRST, "cycles")
    assert found == {"cycles": 1e6, "memory": 300 << 10, "weights": pytest.approx(0.9 * (1 << 20))}
    assert not within(FIRST, found)
    assert within({"cycles": 1e6, "memory": 0, "weights": 1}, found)


def test_limits_that_a_target_does_not_know() -> None:
    with pytest.raises(
        UsageError, match=r"2\.5ms: this target's costs are in cycles, and have no"
    ):
        limits(parse_budgets(["2.5ms"]), FIRST, "cycles")
    with pytest.raises(UsageError, match="cycles twice"):
        limits(parse_budgets(["0.5x", "1Mcycles"]), FIRST, "cycles")
    with pytest.raises(UsageError, match=r"already: it takes 2\.000 M cycles where 3\.000 M"):
        limits(parse_budgets(["3Mcycles"]), FIRST, "cycles")


def test_amounts_for_people() -> None:
    assert said("us", 2500) == "2.500 ms"
    assert said("memory", 307200) == "300.0 KiB of memory"
    assert said("cycles", 1_026_390) == "1.026 M cycles"
    assert said("instructions", 999) == "999 instructions"


def test_time_in_another_unit_is_refused_before_costs_are_known() -> None:
    check_time(parse_budgets(["1Mcycles,weights=9KiB"]), lambda: "cycles")
    with pytest.raises(UsageError, match=r"are times, and not cycles; write one such as 2\.5ms"):
        check_time(parse_budgets(["1Mcycles"]), lambda: "us")
    with pytest.raises(UsageError, match=r"0\.5x and 1Mcycles are both of cycles"):
        check_time(parse_budgets(["0.5x", "1Mcycles"]), lambda: "cycles")
