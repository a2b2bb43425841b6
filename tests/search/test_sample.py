"""Optuna's samplers, asked and told."""

from functools import cache

import pytest

from mbv3c.errors import UsageError
from mbv3c.search.sample import Asked, Method, Sampler
from mbv3c.search.space import Space

SPACE = Space("small", (32,))


def blocks(asked: Asked) -> int:
    return sum(place for name, place in asked.picked.items() if name.endswith("blocks"))


def played(method: Method, seed: int = 3) -> list[list[Asked]]:
    """Ask, and answer that few blocks are good and that wide stems are beyond the budget."""
    sampler, rounds = Sampler(SPACE, method, seed, population=8), list[list[Asked]]()
    for _ in range(4):
        asked = sampler.ask(8)
        for each in asked[:7]:
            if each.picked["stem"] == 2:
                sampler.reject(each, 0.5)
            else:
                sampler.tell(each, 1 - blocks(each) / 20, 1 - blocks(each) / 20, 10.0)
        sampler.drop(asked[7])
        rounds.append(asked)
    return rounds


once = cache(played)


@pytest.mark.parametrize("method", ["tpe", "nsga2"])
def test_equal_answers_give_equal_questions(method: Method) -> None:
    assert once(method) == played(method)


@pytest.mark.parametrize("method", ["tpe", "nsga2"])
def test_it_leads_where_it_was_good(method: Method) -> None:
    first, *_, last = once(method)
    assert sum(map(blocks, last)) < sum(map(blocks, first)) - 6
    assert all(
        0 <= each.picked[choice.name] < len(choice.values)
        for each in last
        for choice in SPACE.choices
    )


def test_tpe_learns_what_the_budget_is() -> None:
    later = [each for asked in once("tpe")[1:] for each in asked]
    assert sum(each.picked["stem"] == 2 for each in later) < len(later) / 4  # a third by chance


def test_other_seeds_give_other_questions() -> None:
    one, other = (Sampler(SPACE, "random", seed, 4).ask(3) for seed in (0, 1))
    assert one != other


def test_what_is_no_sampler_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown --sampler 'grid'; known: tpe, nsga2, random"):
        Sampler(SPACE, "grid", 0, 4)  # type: ignore[arg-type]
