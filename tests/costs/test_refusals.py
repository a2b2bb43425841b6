"""A network that the target refuses does not stop questions about others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mbv3c.errors import ModelError, ToolError
from mbv3c.precision import INT8
from mbv3c.targets import costs, find_target
from tests.costs.networks import block

MODELS = [block(expand=count) for count in (8, 16, 24, 32, 40)]
PLACE = find_target("host_cpu"), INT8, Path("costs")


def test_refused_networks_stand_between_the_costs_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = []

    def asked(models: Sequence[Any], *_: Any, whole: bool, place: None) -> list[int]:
        batches.append(len(models))
        places = [MODELS.index(model) for model in models]
        if bad := {1, 4}.intersection(places):
            raise ModelError(f"no {min(bad)}")
        return places

    monkeypatch.setattr(costs, "costs_of", asked)
    found: Sequence[Any] = costs.costs_or_refusals(MODELS, *PLACE, print, whole=True)
    assert [str(each) for each in found] == ["0", "no 1", "2", "3", "no 4"]
    assert batches == [5, 2, 1, 1, 3, 1, 2, 1, 1]
    assert isinstance(found[1], ModelError)


def test_a_tool_that_fails_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, whole: bool, place: None) -> list[Any]:
        raise ToolError("vela is missing")

    monkeypatch.setattr(costs, "costs_of", fails)
    with pytest.raises(ToolError, match="vela is missing"):
        costs.costs_or_refusals(MODELS, *PLACE, print)
