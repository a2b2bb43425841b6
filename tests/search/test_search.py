"""A whole search with accuracies and costs that are computed, not measured."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbv3c.search.aim import Aim
from mbv3c.search.answers import Cost, Part, Record, Refused, Training
from mbv3c.search.found import Found
from mbv3c.search.halving import Halving
from mbv3c.search.plan import SearchPlan
from mbv3c.search.report import (
    bundle_text,
    draw_search,
    search_json,
    search_lines,
    search_page,
    verdict,
)
from mbv3c.search.search import SearchError, search
from mbv3c.search.space import Candidate, Space
from mbv3c.search.statistics import Right

SPACE = Space("small", (32,))
AIM = Aim("cycles", 500_000.0, least=0.4)
PLAN = SearchPlan(
    Halving((10, 30), least=2, bands=2),
    method="nsga2",
    batches=2,
    asked=12,
    trained=7,
    repeats=2,
    final_steps=90,
    final_seeds=2,
)
IMAGES = 400


def cycles(candidate: Candidate) -> float:
    """Count weights, as a device does that streams them."""
    layers, channels, total = candidate.layers, candidate.layers.stem, 0.0
    for block in layers.blocks:
        total += channels * block.expand + block.expand * (block.out + block.kernel**2)
        channels = block.out
    return total + channels * layers.last_conv + layers.last_conv * layers.hidden


class KilledError(Exception):
    """The process ends."""


class Stub:
    """Answers that follow from a network alone, and end the search after so many of them."""

    judging: Part = "test"

    def __init__(self, worth: float = 0.0, left: int = 10**9) -> None:
        self.asked: list[Any] = []
        self._worth, self._left = worth, left

    def _spend(self) -> None:
        if not self._left:
            raise KilledError
        self._left -= 1

    def costs(
        self, candidates: Sequence[Candidate], *, whole: bool = False
    ) -> list[Cost | Refused]:
        self._spend()
        self.asked += [(each.name, whole) for each in candidates]
        return [self._cost(each, whole) for each in candidates]

    def _cost(self, candidate: Candidate, whole: bool) -> Cost | Refused:
        return {"cycles": cycles(candidate), "memory": 2048.0 * candidate.layers.stem}

    def train(self, trainings: Sequence[Training]) -> list[Right]:
        self._spend()
        self.asked += trainings
        return [self._right(each) for each in trainings]

    def _right(self, training: Training) -> Right:
        """Small networks learn sooner; a first kernel of 5, which no width has, is worth more."""
        candidate = training.candidate
        reached = np.log(cycles(candidate)) / 16 - 20 / training.steps * cycles(candidate) / 1e6
        reached += self._worth * (candidate.layers.blocks[0].kernel == 5)
        text = f"{candidate.name}{training.steps}{training.seed}{training.part}"
        rng = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
        right: Right = rng.random(IMAGES) < reached
        return right

    def model(self, training: Training) -> Path:
        return Path(f"{training.candidate.name}.onnx")

    def compile(self, trainings: Sequence[Training]) -> list[Record]:
        self._spend()
        self.asked += [("compiled", each) for each in trainings]
        sides = {"given": {"share": 0.875}, "bundle": {"share": 0.75, "of": 1000}}
        known: Record = {"accuracy": sides, "accuracy_on": "emulated cortex-a76"}
        return [known if each.seed == 0 else {"refused": "it is too wide"} for each in trainings]


class Memory:
    """A journal in memory, through the text that a file would hold."""

    def __init__(self, lines: Mapping[str, str] | None = None) -> None:
        self.lines = dict(lines or {})

    def knows(self, *key: str | int) -> bool:
        return json.dumps(key) in self.lines

    def once(self, *key: str | int, find: Callable[[], Any]) -> Any:
        if not self.knows(*key):
            self.lines[json.dumps(key)] = json.dumps(find())
        return json.loads(self.lines[json.dumps(key)])


@cache
def found(worth: float = 0.0) -> tuple[Found, Memory, Stub]:
    journal, stub = Memory(), Stub(worth)
    return search(SPACE, AIM, PLAN, stub, journal), journal, stub


def document(result: Found) -> str:
    return json.dumps(search_json(result), sort_keys=True)


def test_it_asks_for_costs_first_and_for_each_thing_once() -> None:
    result, _, stub = found()
    assert len(stub.asked) == len(set(stub.asked))
    assert result.sampled.asked == 24
    assert result.sampled.trained <= 14
    trained = {each for each in stub.asked if isinstance(each, Training)}
    within = [each for each in trained if each.steps in (10, 30)]
    assert all(200_000 <= cycles(each.candidate) <= 500_000 for each in within)
    assert {each.seed for each in trained if each.steps == 90} == {0, 1}
    assert {each.part for each in trained if each.steps == 90} == {"test"}
    assert {each.part for each in within} == {"validation"}


def test_the_rounds_get_fewer_and_longer() -> None:
    result, _, _ = found()
    first, second = result.rounds
    assert (first.steps, second.steps) == (10, 30)
    assert (
        len(first.rows) == result.sampled.trained > len(second.rows) > len(result.finalists) == 2
    )
    assert sum(row.kept for row in first.rows) == len(second.rows)
    assert first.noise is not None
    assert first.noise.degrees == 1
    assert first.order is not None
    assert second.order is None


def test_finalists_stand_between_widths_of_equal_cost() -> None:
    result, _, _ = found()
    by_name = {result.title(final): final for final in result.finals}
    for each in result.comparisons:
        assert each.below is not None
        assert each.above is not None
        below, finalist, above = (
            by_name[name].cost["cycles"] for name in (each.below, each.network, each.above)
        )
        assert below < finalist <= above
        assert (above - below) / finalist < 0.25
        assert 0 < each.share <= 1


def test_killed_after_any_answer_it_ends_with_the_same_result() -> None:
    result, whole, _ = found()
    lines = dict[str, str]()
    for _ in range(100):
        journal, stub = Memory(lines), Stub(left=1)
        try:
            again = search(SPACE, AIM, PLAN, stub, journal)
            break
        except KilledError:
            assert len(journal.lines) > len(lines)
            lines = journal.lines
    else:
        raise AssertionError
    assert document(again) == document(result)
    assert journal.lines == whole.lines


def test_a_journal_of_a_finished_search_answers_everything() -> None:
    result, journal, _ = found()
    stub = Stub(left=0)
    assert document(search(SPACE, AIM, PLAN, stub, Memory(journal.lines))) == document(result)


def test_a_journal_of_another_sampler_is_told() -> None:
    _, journal, _ = found()
    with pytest.raises(SearchError, match="other networks in batch 1"):
        search(SPACE, AIM, replace(PLAN, seed=1), Stub(), Memory(journal.lines))


def test_a_search_that_finds_nothing_better_says_so() -> None:
    result, _, _ = found()
    assert not any(each.beats for each in result.comparisons)
    assert verdict(result).startswith("The search did NOT beat MobileNetV3-Small's widths")
    assert "no more than the noise explains" in "\n".join(search_lines(result))


def test_a_search_that_finds_something_better_says_so() -> None:
    result, _, _ = found(0.3)
    assert any(final.candidate.layers.blocks[0].kernel == 5 for final in result.finalists)
    assert any(each.beats for each in result.comparisons)
    assert "beat MobileNetV3-Small's widths at equal cost beyond the noise" in verdict(result)


def test_what_is_said_has_the_noise_and_the_images() -> None:
    result, _, _ = found()
    text = "\n".join(search_lines(result))
    assert "noise between seeds: " in text
    assert "400 test images" in text
    assert "cycles at most 500,000" in text
    assert ": fp32 87.5%, bundle 75.0% of 1,000 images, on emulated cortex-a76" in text
    refused = replace(result.finals[0], bundle={"refused": "it is too wide"})
    assert "no bundle: it is too wide" in bundle_text(result, refused)
    flattering = replace(result, judging="validation")
    assert "flatter" in "\n".join(search_lines(flattering))


def test_json_and_picture(tmp_path: Path) -> None:
    result, _, _ = found()
    said = json.loads(document(result))
    assert said["beats_widths"] is False
    assert {each["series"] for each in said["front"]} == {"searched", "small, width"}
    assert all(each["within_budget"] for each in said["networks"] if each["width"] is None)
    assert [each["steps"] for each in said["rounds"]] == [10, 30]
    draw_search(result, tmp_path / "front.svg", "search")
    text = (tmp_path / "front.svg").read_text()
    assert "<!-- budget -->" in text
    assert all(f"<!-- {each['name']} -->" in text for each in said["networks"])
    page = search_page(result, "a <target>")
    assert "<h1>a &lt;target&gt;</h1>" in page
    assert page.count("<svg") == page.count("</svg>") == 1
    assert '<p class="verdict bad">✗ The search did NOT beat' in page


def test_a_budget_that_nothing_meets_is_told() -> None:
    for target, counts in ((10.0, "24 take more, 0 less"), (1e12, "0 take more, 24 less")):
        with pytest.raises(SearchError, match=rf"none of 24 .*: {counts} than --least 0\.5"):
            search(SPACE, Aim("cycles", target), PLAN, Stub(), Memory())


def test_a_soft_target_is_one() -> None:
    aim = replace(AIM, weight=-0.15)
    result = search(SPACE, aim, replace(PLAN, batches=1), Stub(), Memory())
    assert any(row.cost["cycles"] > AIM.target for row in result.rounds[0].rows)
    assert all(row.cost["cycles"] <= 1.5 * AIM.target for row in result.rounds[0].rows)


class Refusing(Stub):
    """A target that does not take some networks."""

    def __init__(self, refuses: Callable[[Candidate, bool], bool]) -> None:
        super().__init__()
        self._refuses = refuses

    def _cost(self, candidate: Candidate, whole: bool) -> Cost | Refused:
        if self._refuses(candidate, whole):
            return Refused("it is too wide")
        return super()._cost(candidate, whole)


ONCE = replace(PLAN, batches=1)


def _without_hidden(candidate: Candidate, _: bool) -> bool:
    return not candidate.layers.hidden  # which no width is


def test_refused_networks_are_left_out_and_stand_in_the_journal() -> None:
    journal, said = Memory(), list[str]()
    stub = Refusing(_without_hidden)
    result = search(SPACE, AIM, ONCE, stub, journal, said.append)
    refused = [line for line in journal.lines.values() if "it is too wide" in line]
    assert result.sampled.refused == len(refused) > 0
    assert sum("is refused: it is too wide" in text for text in said) == len(refused)
    assert all(each.candidate.layers.hidden for each in stub.asked if isinstance(each, Training))
    assert f"{len(refused)} are refused by the target" in "\n".join(search_lines(result))
    again = search(SPACE, AIM, ONCE, Stub(left=0), Memory(journal.lines))
    assert document(again) == document(result)

    first = result.finalists[0].candidate

    def refuses(candidate: Candidate, whole: bool) -> bool:
        return _without_hidden(candidate, whole) or (whole and candidate == first)

    fewer = search(SPACE, AIM, ONCE, Refusing(refuses), Memory())
    assert [each.candidate for each in fewer.finalists] == [result.finalists[1].candidate]


def test_where_everything_is_refused_the_search_says_so() -> None:
    with pytest.raises(SearchError, match="the target refuses all of 12 networks"):
        search(SPACE, AIM, ONCE, Refusing(lambda *_: True), Memory())
    with pytest.raises(SearchError, match="refuses every finalist as a whole"):
        search(SPACE, AIM, ONCE, Refusing(lambda _, whole: whole), Memory())
