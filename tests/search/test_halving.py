"""Who goes on, and how many."""

import pytest

from mbv3c.errors import UsageError
from mbv3c.search.aim import Aim
from mbv3c.search.halving import Entry, Halving, bands_of, paired_seeds, promoted

# Accuracy after a short training falls with cost, as it did where this was measured.
ENTRIES = [
    Entry(f"n{index}", cost=index, score=100 - 10 * index + index % 2) for index in range(9)
]


def test_bands_have_like_cost_and_like_size() -> None:
    found = [[entry.name for entry in band] for band in bands_of(ENTRIES[::-1], 3)]
    assert found == [["n0", "n1", "n2"], ["n3", "n4", "n5"], ["n6", "n7", "n8"]]
    assert [len(band) for band in bands_of(ENTRIES[:5], 3)] == [1, 2, 2]
    assert [len(band) for band in bands_of(ENTRIES[:2], 3)] == [1, 1]
    assert bands_of([], 3) == []


def test_the_best_of_each_band_go_on() -> None:
    assert [entry.name for entry in promoted(ENTRIES, 3, bands=3)] == ["n0", "n3", "n6"]
    assert [entry.name for entry in promoted(ENTRIES, 3, bands=1)] == ["n0", "n1", "n2"]


def test_what_does_not_go_up_is_given_to_the_dearer() -> None:
    assert [entry.name for entry in promoted(ENTRIES, 4, bands=3)] == ["n0", "n3", "n6", "n7"]


def test_of_equal_scores_the_cheaper_goes_on() -> None:
    equal = [Entry("a", 2.0, 0.5), Entry("b", 1.0, 0.5), Entry("c", 3.0, 0.5)]
    assert [entry.name for entry in promoted(equal, 1, bands=1)] == ["b"]


def test_each_round_has_fewer_networks_for_longer() -> None:
    plan = Halving((100, 300, 900), factor=3, least=2)
    assert plan.trainings(20) == [(20, 100), (7, 300), (3, 900)]
    assert plan.kept(3, 2) == 2
    assert Halving((100, 300)).trainings(2) == [(2, 100), (2, 300)]


@pytest.mark.parametrize(
    "wrong", [{"steps": ()}, {"steps": (5, 5)}, {"steps": (0, 5)}, {"factor": 1}, {"bands": 0}]
)
def test_what_is_no_halving_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="must"):
        Halving(**{"steps": (1, 2), **wrong})  # type: ignore[arg-type]


def test_seeds_are_those_of_every_network() -> None:
    assert paired_seeds(7, 3) == (7, 8, 9)


def test_a_reward_trades_accuracy_for_cost() -> None:
    aim = Aim("cycles", 100.0, weight=-0.07)
    assert aim.reward(0.5, {"cycles": 100}) == 0.5
    # Half the cost is worth about 5 % of accuracy, as MnasNet chose its exponent.
    assert aim.reward(0.5, {"cycles": 50}) == pytest.approx(0.5 * 2**0.07)
    assert aim.excess({"cycles": 149}) == 0
    assert aim.excess({"cycles": 300}) == pytest.approx(1)


def test_a_hard_budget_is_one() -> None:
    aim = Aim("cycles", 100.0, least=0.5, limits={"memory": 10.0})
    assert aim.reward(0.5, {"cycles": 60}) == 0.5
    assert aim.excess({"cycles": 100, "memory": 10}) == 0
    assert aim.excess({"cycles": 120, "memory": 15}) == pytest.approx(0.7)
    assert aim.excess({"cycles": 40, "memory": 1}) == pytest.approx(0.1)
    assert aim.meets({"cycles": 40, "memory": 1})
    assert not aim.meets({"cycles": 40, "memory": 11})
    assert not aim.meets({"cycles": 101, "memory": 1})


@pytest.mark.parametrize("wrong", [{"target": 0.0}, {"weight": 0.1}, {"least": 1.0}])
def test_what_is_no_aim_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Aim(**{"resource": "cycles", "target": 1.0, **wrong})  # type: ignore[arg-type]
