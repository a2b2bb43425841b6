import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.search.adapt import adapt
from mbv3c.search.adapt_report import draw, lines, met, to_json, unconverged
from mbv3c.search.adapted import Adapted, AdaptPlan
from mbv3c.search.answers import Refused
from mbv3c.search.budget import parse_budgets
from mbv3c.search.channels import sites
from mbv3c.search.journal import open_journal
from mbv3c.search.layers import layers_of
from tests.search.adapting import Killed, Stubs, adapted, tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return adapted(tmp_path_factory.mktemp("whole"), "0.6x", saving=0.1)


def test_the_budget_is_met_by_steps_that_save_what_was_wanted(whole: Adapted) -> None:
    assert met(whole) and not whole.stuck
    most, before = whole.limits["cycles"], whole.first_cost
    assert most == pytest.approx(0.6 * before["cycles"])
    for step in whole.steps:
        wanted = min(
            0.1 * 0.98 ** (step.number - 1) * whole.first_cost["cycles"], before["cycles"] - most
        )
        if step.saving != pytest.approx(wanted):
            assert step.saving / wanted in (pytest.approx(0.5), pytest.approx(0.25))
            assert len(step.tried) > 1
        assert all(before["cycles"] - each.cost["cycles"] >= step.saving for each in step.tried)
        before = step.cost
    assert [step.last for step in whole.steps] == [False] * (len(whole.steps) - 1) + [True]
    assert whole.cost["cycles"] > 0.5 * whole.first_cost["cycles"]  # the last step is short


def test_what_loses_least_for_what_it_saves_is_taken(whole: Adapted) -> None:
    accuracy, cycles = whole.first_right.mean(), whole.first_cost["cycles"]
    for step in whole.steps:
        worth = [
            (each.right.mean() - accuracy) / (1 if step.last else cycles - each.cost["cycles"])
            for each in step.tried
        ]
        assert worth == sorted(worth, reverse=True)
        accuracy, cycles = step.tried[0].right.mean(), step.cost["cycles"]
    assert len(whole.steps[0].tried) > 3


def test_where_one_site_alone_saves_enough_less_is_wanted(tmp_path: Path) -> None:
    result = adapted(tmp_path, "0.7x", saving=0.3, finish=False)
    first = result.steps[0]
    assert first.saving < 0.3 * result.first_cost["cycles"]
    assert len(first.tried) >= 3


def test_the_result_is_a_network_with_what_the_steps_left(whole: Adapted) -> None:
    onnx.checker.check_model(whole.model, full_check=True)
    left = {site.name: site.channels for site in sites(tiny())}
    for step in whole.steps:
        taken = step.tried[0]
        assert left[taken.site.name] == taken.site.channels
        left[taken.site.name] = taken.count
    assert {site.name: site.channels for site in sites(whole.model)} == left
    network = layers_of(whole.model)
    assert not isinstance(network, str)
    assert network.hidden == left["classifier.0"]


def _bytes(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapted, Stubs]:
    stubs = Stubs()
    return adapted(tmp_path_factory.mktemp("short"), "0.8x", saving=0.12, stubs=stubs), stubs


@pytest.mark.parametrize("where", ["first costs", "costs", "training", "end"])
def test_killed_anywhere_it_goes_on_to_the_same_result(
    short: tuple[Adapted, Stubs], tmp_path: Path, where: str
) -> None:
    whole, undisturbed = short
    names = undisturbed.names
    second = names.index("tune") + 2  # the first step ends by asking for a cost
    training = names.index("tune", second)
    kill_at, goes_on_at = {
        "first costs": (0, 0),
        "costs": (second + 1, second),
        "training": (training, training),
        "end": (len(names) - 1, len(names) - 2),
    }[where]
    with pytest.raises(Killed):
        adapted(tmp_path, "0.8x", saving=0.12, stubs=Stubs(kill_at=kill_at))
    again = Stubs()
    result = adapted(tmp_path, "0.8x", saving=0.12, stubs=again)
    assert again.names == names[goes_on_at:]
    assert to_json(result) == to_json(whole)
    assert _bytes(result.model) == _bytes(whole.model)
    nothing = Stubs(kill_at=0)
    assert to_json(adapted(tmp_path, "0.8x", saving=0.12, stubs=nothing)) == to_json(whole)


def test_another_option_does_not_go_on_with_the_journal(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        adapted(tmp_path, "0.6x", saving=0.1, stubs=Stubs(kill_at=2))
    with pytest.raises(UsageError, match="with another saving, decay; name another folder"):
        adapted(tmp_path, "0.6x", saving=0.2, decay=0.9)


def test_a_changed_network_beside_the_journal_is_found(tmp_path: Path) -> None:
    adapted(tmp_path, "0.9x", finish=False)
    (tmp_path / "step-1.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"step-1.onnx is gone or was changed"):
        adapted(tmp_path, "0.9x", finish=False)


def test_several_budgets_are_met_at_once(tmp_path: Path) -> None:
    result = adapted(tmp_path, "0.8x", "memory=0.85x", saving=0.1, finish=False)
    assert met(result)
    assert {step.resource for step in result.steps} == {"cycles", "memory"}
    assert result.cost["memory"] <= 0.85 * result.first_cost["memory"]
    assert result.model is not None and not result.finished


def test_a_budget_that_no_cut_can_meet_is_said(tmp_path: Path) -> None:
    result = adapted(tmp_path, "memory=0.01x", saving=0.2, finish=False)
    assert not met(result)
    assert "no cut of one site saves any memory" in result.stuck
    text = "\n".join(lines(result))
    assert "stopped: no cut" in text and "the budget is missed" in text


def test_what_is_kept_is_not_cut(tmp_path: Path, whole: Adapted) -> None:
    result = adapted(tmp_path, "0.9x", kept=("hidden", "features.1.expand.conv"), finish=False)
    tried = {(t.site.kind, t.site.name) for step in result.steps for t in step.tried}
    assert tried and not [each for each in tried if "hidden" in each]
    assert "features.1.expand.conv" not in {name for _, name in tried}
    with pytest.raises(UsageError, match="--keep 'gates' is no site of the model; its sites are"):
        adapted(tmp_path / "gates", "0.9x", kept=("gates",))


def test_a_start_that_is_not_trained_out_is_warned_of(tmp_path: Path, whole: Adapted) -> None:
    assert unconverged(whole) is None
    assert to_json(whole)["given"]["converged"] is True
    result = adapted(tmp_path, "0.95x", stubs=Stubs(gain=0.06), finish=False)
    rise = unconverged(result)
    assert rise is not None and 0.03 < rise.difference.share < 0.1
    assert any(line.startswith("warning: the given network was not tr") for line in lines(result))


def test_choices_within_noise_are_called_so(whole: Adapted) -> None:
    text = "\n".join(lines(whole))
    assert "within noise" in text and "p " in text
    assert re.search(r"\nbudget: [\d.,]+( M)? cycles \(0\.\d{3}\) at most\nstep 1: ", text)
    assert re.search(r"beside it the one taken has [+-]\d\.\d\d points \(", text)
    near = [
        proposal["taken_less_this"]["within_noise"]
        for step in to_json(whole)["steps"]
        for proposal in step["proposals"][1:]
    ]
    assert True in near and False in near


def test_it_is_drawn(whole: Adapted, tmp_path: Path) -> None:
    draw(tmp_path / "steps.png", whole, "a target")
    assert (tmp_path / "steps.png").stat().st_size > 10_000


def test_a_model_within_the_budget_is_refused(tmp_path: Path) -> None:
    plan = AdaptPlan(parse_budgets(["999Mcycles"]))
    with (
        open_journal(tmp_path / "journal", {}) as journal,
        pytest.raises(UsageError, match="within the budget already"),
    ):
        adapt(tiny(), plan, Stubs().means(), journal)
    # It leaves nothing that another budget would have to be told from.
    with open_journal(tmp_path / "journal", {"budget": "0.9x"}) as journal:
        assert not len(journal)


@pytest.mark.parametrize(("option", "value"), [("saving", 0.0), ("decay", 1.1), ("grain", 0)])
def test_plans_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{option}"):
        AdaptPlan(parse_budgets(["0.5x"]), **{option: value})  # type: ignore[arg-type]


def test_a_winner_that_the_target_refuses_as_a_whole_is_passed_over(tmp_path: Path) -> None:
    first = adapted(tmp_path / "first", "0.9x", finish=False).steps[0].tried
    stubs = Stubs()
    asked, costs = list[int](), stubs.costs

    def refusing(models: Sequence[onnx.ModelProto], whole: bool) -> list[Any]:
        asked.append(len(models)) if whole else None
        return [Refused("it is too odd")] if whole and len(asked) == 2 else costs(models, whole)

    stubs.costs = refusing  # type: ignore[method-assign]
    second = adapted(tmp_path / "second", "0.9x", finish=False, stubs=stubs).steps[0].tried
    assert [each.site for each in second[:2]] == [first[1].site, first[0].site]
    assert any("the winner is refused: it is too odd" in text for text in stubs.said)
