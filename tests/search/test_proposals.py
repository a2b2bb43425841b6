from collections.abc import Mapping, Sequence

import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.search.answers import Refused
from mbv3c.search.channels import sites
from mbv3c.search.proposals import Proposal, Proposing, Wanted
from tests.search.adapting import tiny

SITE = next(site for site in sites(tiny()) if site.name == "features.4.conv")  # 64 channels


class Table:
    """Costs by the channels of the last convolution."""

    def __init__(self, saved: Mapping[int, float], memory: Mapping[int, float] | None = None):
        self.saved, self.memory, self.questions = saved, memory or {}, list[list[int]]()
        self.refused: tuple[int, ...] = ()

    def __call__(
        self, models: Sequence[onnx.ModelProto], whole: bool
    ) -> list[dict[str, float] | Refused]:
        counts = [s.channels for m in models for s in sites(m) if s.name == SITE.name]
        self.questions.append(counts)
        return [
            {"cycles": 1000 - self.saved.get(n, 0), "memory": self.memory.get(n, 10)}
            if n not in self.refused
            else Refused("it is odd")
            for n in counts
        ]


def proposed(costs: Table, saving: float, grain: int = 8, most: float = 10) -> list[Proposal]:
    now = {"cycles": 2000.0, "memory": 10.0}  # asked as a whole, it costs more than its layers
    wanted = Wanted("cycles", now, saving, {"memory": most}, grain, lambda _: True)
    return Proposing(tiny(), now, costs).propose([SITE], wanted)


LINE = {count: (64 - count) * 10.0 for count in range(64)}


@pytest.mark.parametrize(("saving", "count"), [(1, 56), (80, 56), (81, 48), (300, 32), (560, 8)])
def test_the_widest_cut_that_saves_enough(saving: float, count: int) -> None:
    (proposal,) = proposed(Table(LINE), saving)
    assert (proposal.site, proposal.count) == (SITE, count)
    assert proposal.cost == {"cycles": 2000 - LINE[count], "memory": 10}


def test_what_cannot_save_enough_is_left_out() -> None:
    assert proposed(Table(LINE), 561) == []


@pytest.mark.parametrize("grain", [1, 7, 16, 32])
def test_counts_are_multiples_of_the_grain(grain: int) -> None:
    (proposal,) = proposed(Table(LINE), 200, grain)
    assert proposal.count == 44 // grain * grain


def test_few_questions_in_few_batches() -> None:
    costs = Table(LINE)
    proposed(costs, 300, grain=1)
    assert len(costs.questions) <= 5 and sum(map(len, costs.questions)) <= 7


def test_costs_that_do_not_fall_with_the_channels() -> None:
    for bump in range(8, 64, 8):  # one count more costs as much as none cut
        (proposal,) = proposed(Table({**LINE, bump: 0.0}), 200)
        assert LINE[proposal.count] >= 200 and proposal.count != bump
        assert proposal.count >= 32 if bump == 40 else proposal.count == 40
    # 48 saves enough, 40 does not: one count beyond what does not save enough is looked at.
    (proposal,) = proposed(Table({**LINE, 48: 200.0, 40: 150.0}), 200)
    assert proposal.count == 48


def test_other_budgets_that_are_kept_stay_kept() -> None:
    more = dict.fromkeys((40, 32), 11.0)
    assert proposed(Table(LINE, more), 200)[0].count == 24
    assert proposed(Table(LINE, more), 200, most=11)[0].count == 40


def test_what_may_not_be_proposed_is_passed_over() -> None:
    now = {"cycles": 1000.0}

    def allowed(model: onnx.ModelProto) -> bool:
        return next(s.channels for s in sites(model) if s.name == SITE.name) != 40

    wanted = Wanted("cycles", now, 200, {}, 8, allowed)
    (proposal,) = Proposing(tiny(), now, Table(LINE)).propose([SITE], wanted)
    assert proposal.count == 32


@pytest.mark.parametrize("refused", [(8,), (40,), (24, 40), (40, 48, 56)])
def test_a_refused_cut_is_passed_over_and_told(refused: tuple[int, ...]) -> None:
    now, costs = {"cycles": 2000.0, "memory": 10.0}, Table(LINE)
    costs.refused = refused
    asking = Proposing(tiny(), now, costs)
    wanted = Wanted("cycles", now, 200, {"memory": 10}, 8, lambda _: True)
    (proposal,) = asking.propose([SITE], wanted)
    assert LINE[proposal.count] >= 200 and proposal.count not in refused
    asked = {count for questions in costs.questions for count in questions}
    assert {count for _, count, _ in asking.refused} == asked & {*refused}
    costs.refused = (64,)
    with pytest.raises(ModelError, match="the network is refused: it is odd"):
        Proposing(tiny(), now, costs).propose([SITE], wanted)
