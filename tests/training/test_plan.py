"""A plan is read strictly, and says rates."""

from typing import Any

import numpy as np
import pytest

from mbv3c.errors import UsageError
from mbv3c.training.augment import AUGMENTATIONS, augmented
from mbv3c.training.plan import TrainPlan


def test_a_plan_goes_to_json_and_back() -> None:
    plan = TrainPlan(steps=5, augment=("crop", "flip"), fresh=True, warmup=2)
    assert TrainPlan.from_json(plan.to_json()) == plan
    assert TrainPlan.from_json({"steps": 5}) == TrainPlan(steps=5)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"steps": 5, "batch": 1}, "--batch must be at least 2"),
        ({"steps": 5, "rate": 0.0}, "--rate must be above 0"),
        ({"steps": 5, "average": 1.0}, "--average must be from 0 to below 1, got 1"),
        ({"steps": 5, "augment": ["turn"]}, "unknown --augment 'turn'; known: crop, flip"),
        ({"steps": 5, "device": "tpu"}, "unknown --device 'tpu'; nearest: cpu; known: cpu, cuda"),
        ({"steps": "5"}, "no plan of training: .*steps"),
        ({"steps": 5, "stepps": 5}, "has no field 'stepps'"),
        ({}, "no plan of training"),
    ],
)
def test_what_is_no_plan_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        TrainPlan.from_json(given)


def test_the_rate_rises_and_falls() -> None:
    plan = TrainPlan(steps=100, rate=0.5)
    rates = [plan.rate_at(step) for step in range(100)]
    assert plan.warmup_steps == 20
    assert rates[0] == pytest.approx(0.5 / 20)
    assert max(rates) == rates[19] == rates[20] == 0.5
    assert np.all(np.diff(rates[20:]) < 0)
    assert 0 < rates[-1] < 1e-3
    assert TrainPlan(steps=100, rate=0.5, warmup=0).rate_at(0) == 0.5


def test_the_average_begins_with_few_steps() -> None:
    plan = TrainPlan(steps=10)
    assert plan.average_at(0) == 0.1
    assert plan.average_at(100_000) == 0.999


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmentation_keeps_what_an_image_is(name: str, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 12, channels), np.uint8)
    before = images.copy()
    one, same, other = (
        augmented((name,), np.random.default_rng(seed), images) for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()
    assert (images == before).all()
    assert (one.shape, one.dtype) == (images.shape, images.dtype)


def test_shifts_and_mirrors_are_those() -> None:
    images = np.arange(8 * 8, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(64, axis=0)
    shifted = augmented(("crop",), np.random.default_rng(0), images)
    rows, columns = np.arange(8), np.arange(8)
    allowed = {
        images[0][np.clip(rows + y, 0, 7)][:, np.clip(columns + x, 0, 7)].tobytes()
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    assert {image.tobytes() for image in shifted} == allowed
    mirrored = augmented(("flip",), np.random.default_rng(0), images)
    assert {image.tobytes() for image in mirrored} == {
        images[0].tobytes(),
        images[0][:, ::-1].tobytes(),
    }
