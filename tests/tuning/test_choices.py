"""Choices of similar kernels: which are similar, and which say nothing."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mbv3c.lowering.plan import TRANSFERRED, TUNED, Depthwise, GlobalPool, Plan, Pointwise, Step
from mbv3c.lowering.schedules.emit import HARD_SWISH, RELU
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.manifest import TunedKernel
from mbv3c.targets.cpu.cores import CORES
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.schedules import depthwise, pooling
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.tuning.choices import (
    Likeness,
    MeasuredChoices,
    best_choices,
    likeness,
    neighbours,
    recorded,
    tuned_kernels,
)
from mbv3c.tuning.database import Record, key_of

A76 = CORES["cortex-a76"]
POOL = GlobalPool(1, 49, 64)
AXIS = Axis(14, 5, 1, 1, 2, 2)
DEEP = Depthwise(1, 96, AXIS, AXIS, HARD_SWISH)
WIDE = Pointwise(196, 40, 240, HARD_SWISH, residual=False)


def records(kind: str, shape: Any, knobs: dict[str, Any], cost: float = 80.0) -> list[Record]:
    """Return what a search leaves of a kernel: default, a candidate, and the winner if any."""
    key = key_of(kind, shape)
    measured = [
        Record(key, {"default": 1}, "ok", 100.0, 100.0),
        Record(key, knobs, "ok", cost, 100.0),
    ]
    return [*measured, replace(measured[1], kept=True)] if cost < 100.0 else measured


def near(shape: Any, *known: Record, kind: str = "global_pool") -> dict[str, Any] | None:
    return best_choices(known).near(kind, shape)


def test_the_nearest_one_counts() -> None:
    known = [
        *records("global_pool", replace(POOL, channels=40), {"vectors": 1}),
        *records("global_pool", replace(POOL, channels=72), {"vectors": 2}),
        *records("global_pool", replace(POOL, channels=120), {"vectors": 3}),
    ]
    assert near(POOL, *known) == {"vectors": 2}
    assert near(replace(POOL, channels=112), *known) == {"vectors": 3}
    assert near(replace(POOL, channels=44), *known) == {"vectors": 1}


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (replace(POOL, channels=128), True),
        (replace(POOL, channels=129), False),  # beyond a factor of two
        (replace(POOL, places=25), True),
        (replace(POOL, places=24), False),
        (replace(POOL, dtype="float16"), False),
        (replace(POOL, batch=2), False),
    ],
)
def test_how_far_a_neighbour_may_be(shape: GlobalPool, found: bool) -> None:
    known = records("global_pool", POOL, {"vectors": 2})
    assert (near(shape, *known) is not None) == found


OTHERS: list[tuple[str, Any, Any]] = [
    ("depthwise", DEEP, replace(DEEP, activation=RELU)),
    ("depthwise", DEEP, replace(DEEP, vertical=replace(AXIS, taps=3))),
    ("depthwise", DEEP, replace(DEEP, horizontal=replace(AXIS, stride=2))),
    ("depthwise", DEEP, replace(DEEP, horizontal=replace(AXIS, before=1))),
    ("depthwise", DEEP, replace(DEEP, dtype="float16")),
    ("pointwise", WIDE, replace(WIDE, residual=True)),
    (
        "integer_pointwise",
        IntegerPointwise(196, 40, 240, Requantization(3)),
        IntegerPointwise(196, 40, 240, Requantization(3, lookup=True)),
    ),
]


@pytest.mark.parametrize(("kind", "shape", "other"), OTHERS)
def test_what_is_written_otherwise_is_no_neighbour(kind: str, shape: Any, other: Any) -> None:
    known = records(kind, shape, {"rows": 2})
    assert near(other, *known, kind=kind) is None
    assert likeness(key_of(kind, shape)).structure != likeness(key_of(kind, other)).structure


def test_what_holds_nothing_is_like_nothing() -> None:
    assert Likeness("pointwise", (8, 0)).apart(Likeness("pointwise", (8, 4))) is None
    assert Likeness("pointwise", (8, 4)).apart(Likeness("pointwise", (8, 4))) == 0


def test_a_kind_is_no_neighbour_of_another() -> None:
    known = records("global_pool", POOL, {"vectors": 2})
    assert near(replace(POOL, channels=72), *known, kind="pool") is None


def test_integers_with_other_zero_points_are_neighbours() -> None:
    known = records(
        "integer_pointwise", IntegerPointwise(196, 40, 240, Requantization(3)), {"rows": 2}
    )
    wanted = IntegerPointwise(144, 40, 200, Requantization(-9))
    assert near(wanted, *known, kind="integer_pointwise") == {"rows": 2}


@pytest.mark.parametrize("cost", [98.5, 100.0, 130.0])
def test_a_nearest_one_that_gained_little_keeps_farther_ones_away(cost: float) -> None:
    known = [
        *records("global_pool", replace(POOL, channels=72), {"vectors": 2}, cost),
        *records("global_pool", replace(POOL, channels=120), {"vectors": 3}),
    ]
    assert near(POOL, *known) is None
    assert near(POOL, *known[2 if cost >= 100.0 else 3 :]) == {"vectors": 3}


def test_what_was_measured_itself_takes_nothing_from_others() -> None:
    known = [
        *records("global_pool", POOL, {"vectors": 2}, 120.0),
        *records("global_pool", replace(POOL, channels=72), {"vectors": 2}),
    ]
    assert near(POOL, *known) is None
    # Its default choice alone, measured before a search was interrupted, says nothing.
    assert near(POOL, known[0], *known[2:]) == {"vectors": 2}
    assert neighbours(known).keys == {one.key for one in known}


def test_origins_of_kernels() -> None:
    known = records("global_pool", POOL, {"vectors": 3})
    kernels = CpuKernels(A76, best_choices(known))
    assert (kernels.global_pool(POOL).knobs, kernels.global_pool(POOL).origin) == (
        pooling.Tile(3),
        TUNED,
    )
    similar = kernels.global_pool(replace(POOL, channels=72))
    assert (similar.knobs, similar.origin) == (pooling.Tile(3), TRANSFERRED)
    other = kernels.global_pool(replace(POOL, channels=320))
    assert other.origin == "default"


def test_what_is_not_legal_here_is_not_used() -> None:
    shape = replace(DEEP, channels=64)
    tiles = [asdict(tile) for tile in depthwise.legal(shape, A76)]
    knobs = {**tiles[0], next(iter(tiles[0])): 1000}
    kernels = CpuKernels(A76, best_choices(records("depthwise", DEEP, knobs)))
    tile, origin = kernels._choose("depthwise", shape)
    assert (tile, origin) == (depthwise.default(shape, A76), "default")


def test_a_manifest_gives_back_what_it_lists() -> None:
    similar = replace(POOL, channels=72)
    choices = best_choices(records("global_pool", POOL, {"vectors": 3}))
    plan = Plan(("x",), ((1,),))
    for shape in (POOL, similar):
        kernel = CpuKernels(A76, choices).global_pool(shape)
        step = Step("global_pool", (), kernel.function, (), (), 0, asdict(kernel.knobs))
        plan.steps.append(replace(step, shape=shape, origin=kernel.origin))
    written = json.dumps(msgspec.to_builtins(tuned_kernels(plan)))
    listed = msgspec.convert(json.loads(written), tuple[TunedKernel, ...])
    assert [kernel.origin for kernel in listed] == [TUNED, TRANSFERRED]
    again = CpuKernels(A76, recorded(listed))
    for step in plan.steps:
        kernel = again.global_pool(step.shape)
        assert (asdict(kernel.knobs), kernel.origin) == (step.knobs, step.origin)


def test_nothing_known_is_nothing_found(tmp_path: Path) -> None:
    assert MeasuredChoices().near("global_pool", POOL) is None
    assert MeasuredChoices().find("global_pool", POOL) is None
